"""Prepare what a stage reads: params with searched values, and inputs. Check that they are as
planned."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from orchestrator.artifact import Artifact, Ref
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.machine import scratch_folder
from orchestrator.contract import Params, Role
from orchestrator.errors import DataError, JobError
from orchestrator.plan import Plan, PlannedStage
from orchestrator.s3.bucket import SCHEME
from orchestrator.spec import template_params
from orchestrator.store.outside import fetch_outside
from orchestrator.store.protocol import Store
from orchestrator.store.publish import fetch_artifact, load_manifest, publish_artifact

_SHOWN = 12
"""Hexadecimal digits of a digest that a message shows."""


def effective_params(plan: Plan, planned: PlannedStage, store: Store) -> Params:
    """Return the stage's params with searched values, or a search's template. Raises JobError if
    the values do not fit."""
    stage = planned.stage
    if stage.search is not None:
        template: Params = template_params(plan.job, stage)
        return template
    params: Params = stage.params
    if stage.params_from is None:
        return params
    with scratch_folder("orchestrator-params-") as scratch:
        folder = fetch_artifact(
            store, _published_output(plan, planned, stage.params_from, store), scratch
        )
        searched: dict[str, Any] = json.loads((folder / "best_params.json").read_text())
    try:
        return params.overlay(searched)
    except ValidationError as err:
        raise JobError(
            f"stages.{stage.name}: {stage.params_from} {searched} does not fit its params: {err}"
        ) from err


def publish_inputs(plan: Plan, planned: PlannedStage, store: Store) -> dict[str, Artifact]:
    """Return the stage's inputs by field, all of them in the store. Files from outside the job are
    published first."""
    stage = planned.stage
    return {
        **{
            name: _published_output(plan, planned, ref, store) for name, ref in stage.inputs.items()
        },
        **{
            name: _publish_outside(planned, name, location, store)
            for name, location in stage.files.items()
        },
    }


def _published_output(plan: Plan, planned: PlannedStage, ref: Ref, store: Store) -> Artifact:
    manifest = load_manifest(store, plan[ref.stage].key)
    assert manifest is not None, "a stage starts after the stages that it needs"
    if ref.output not in manifest.artifacts:
        raise JobError(
            f"stages.{planned.name}: {ref} does not exist: the best trial of {ref.stage} was "
            "stopped early and has no model; increase num_trials or set scheduler: {name: none}"
        )
    return manifest.artifacts[ref.output]


def _publish_outside(planned: PlannedStage, field: str, location: str, store: Store) -> Artifact:
    """Publish a file from outside the job, so that workers read it from the store and its bytes are
    kept."""
    with scratch_folder("orchestrator-outside-") as scratch:
        fetch_outside(location, scratch)
        artifact = publish_artifact(store, scratch)
    inputs = planned.recipe["inputs"]
    assert isinstance(inputs, dict)
    if inputs[field] != {"sha256": artifact.files[0].sha256}:
        raise DataError(f"{location}: changed after the run was planned; run the job again")
    return artifact


def check_read(attempt: Attempt) -> None:
    """Raise DataError unless data and files on this machine match the Key.

    Data in a folder that the plan itself read are not read again: for ImageNet on a network drive
    that takes minutes. Data in S3 are checked by a listing, and the small files that params name
    are read.
    """
    if attempt.stated_data is not None:
        _check_stated(attempt, attempt.stated_data)
    elif any(str(location).startswith(SCHEME) for location in _data_locations(attempt)):
        _check_planned(
            attempt, "its data", str(attempt.recipe["data"]), attempt.fingerprint(attempt.params)
        )
    for field, digest in attempt.reads(attempt.params).items():
        _check_planned(attempt, field, str(attempt.recipe["inputs"][field]["sha256"]), digest)


def _check_stated(attempt: Attempt, stated: str) -> None:
    found = attempt.fingerprint(attempt.params)
    if found != stated:
        raise DataError(
            f"stages.{attempt.stage}.data_fingerprint is {stated}, but the data on "
            f"{socket.gethostname()} have {found}; correct the field or the data"
        )


def _check_planned(attempt: Attempt, what: str, planned: str, found: str) -> None:
    if found != planned:
        raise DataError(
            f"stages.{attempt.stage}: {what} changed after the run was planned, from "
            f"{planned[:_SHOWN]}... to {found[:_SHOWN]}..., so its Key would be wrong; run the job "
            "again to plan with the new content"
        )


def _data_locations(attempt: Attempt) -> Iterator[object]:
    return (getattr(attempt.params, field) for field in attempt.params.fields_with(Role.DATA))
