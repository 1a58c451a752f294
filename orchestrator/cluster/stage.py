"""One stage on the cluster: fetches the searched params, builds the attempt, runs it to its manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from pydantic import JsonValue, ValidationError

from orchestrator.artifact import Artifact, Manifest, Ref
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.connection import all_machines
from orchestrator.cluster.events import EventChannel
from orchestrator.cluster.machine import scratch_folder
from orchestrator.cluster.room import Ledger, Room
from orchestrator.cluster.train import train
from orchestrator.contract import Kind, Params
from orchestrator.errors import DataError, JobError
from orchestrator.plan import Plan, PlannedStage
from orchestrator.schedule import groups_for
from orchestrator.spec import Stage, TuneParams, template_params, usable_counts
from orchestrator.store.outside import fetch_outside
from orchestrator.store.protocol import Store
from orchestrator.store.publish import fetch_artifact, load_manifest, publish_artifact, training_name


@dataclass(frozen=True)
class StageRun:
    """What a stage of `plan` needs to run."""

    plan: Plan
    planned: PlannedStage
    slots: int
    store: Store
    channel: EventChannel
    ledger: Ledger
    provenance: dict[str, JsonValue]

    def run(self) -> Manifest:
        """Run to the manifest. Raises OrchestratorError."""
        attempt = _attempt(self)
        stage = self.planned.stage
        if isinstance(stage.params, TuneParams):
            room = Room(stage.name, stage.resources, stage.worker_counts, self.ledger, self.channel)
            self._search(replace(attempt, workers=room.take(attempt)), stage.params)
        else:
            counts = _usable_counts(stage, attempt.params)
            train(attempt, self.channel, Room(stage.name, stage.resources, counts, self.ledger, self.channel))
        manifest = load_manifest(self.store, self.planned.key)
        assert manifest is not None, "rank 0 publishes the manifest before its group ends"
        return manifest

    def _search(self, attempt: Attempt, params: TuneParams) -> None:
        # Ray Tune and torch take four seconds to import, and most runs search nothing.
        from orchestrator.cluster.publishing import publish_result  # noqa: PLC0415
        from orchestrator.cluster.search import search  # noqa: PLC0415

        (metric,) = self.planned.stage.metrics
        slots = groups_for(attempt.resources, all_machines(), workers=attempt.workers, most=self.slots)
        with scratch_folder("orchestrator-tune-") as scratch:
            result, models = search(attempt, params, metric, slots=slots, channel=self.channel, scratch=scratch)
            publish_result(attempt, result, published=models)


def _usable_counts(stage: Stage, params: Params) -> tuple[int, ...]:
    """How many workers a group may have, searched params put in. Raises JobError where they suit no such number."""
    counts = usable_counts(stage.kind, params, stage.resources)
    if not counts:
        workers = stage.resources.workers
        raise JobError(f"stages.{stage.name}.resources.workers: no number in {workers} suits the searched params")
    return counts


def _attempt(run: StageRun) -> Attempt:
    planned, job = run.planned, run.plan.job
    stage = planned.stage
    source: Stage = job.stages[stage.params.of] if isinstance(stage.params, TuneParams) else stage
    kind: Kind = source.kind
    assert kind.entry is not None, "a search's target is never a search"
    params = _effective_params(run)
    return Attempt(
        stage=planned.name,
        number=1,
        trial=None,
        kind=stage.kind.name,
        entry=kind.entry,
        key=planned.key,
        recipe=planned.recipe,
        params=params,
        fingerprint=kind.fingerprint,
        stated_data=str(planned.recipe["data"]) if stage.data_fingerprint or source.data_fingerprint else None,
        reads=kind.reads,
        seed=stage.seed,
        resources=stage.resources,
        workers=stage.worker_counts[0],
        metric=stage.metrics[0] if stage is not source else kind.metrics(params)[0],
        # Trials keep the newest alone: the best of them all is what a search is for.
        keep_best=getattr(params, "keep_best", 0) if stage is source else 0,
        inputs={
            **{name: _input(run, ref) for name, ref in stage.inputs.items()},
            **{name: _outside_input(run, name, place) for name, place in stage.files.items()},
        },
        store_uri=run.store.uri,
        training=training_name(planned.key),
        provenance=run.provenance,
    )


def _effective_params(run: StageRun) -> Params:
    """The stage's params with the searched ones put in; a search's template."""
    stage = run.planned.stage
    if isinstance(stage.params, TuneParams):
        template: Params = template_params(run.plan.job, stage)
        return template
    params: Params = stage.params
    if stage.params_from is None:
        return params
    searched = _searched(run, stage.params_from)
    try:
        return params.overlay(searched)
    except ValidationError as err:
        raise JobError(f"stages.{stage.name}: {stage.params_from} {searched} do not fit its params: {err}") from err


def _searched(run: StageRun, ref: Ref) -> dict[str, Any]:
    with scratch_folder("orchestrator-params-") as scratch:
        folder = fetch_artifact(run.store, _input(run, ref), scratch)
        content: dict[str, Any] = json.loads((folder / "best_params.json").read_text())
    return content


def _outside_input(run: StageRun, field: str, place: str) -> Artifact:
    """The file from outside, published, so that workers read it from the store and its bytes are kept."""
    with scratch_folder("orchestrator-outside-") as scratch:
        fetch_outside(place, scratch)
        artifact = publish_artifact(run.store, scratch)
    inputs = run.planned.recipe["inputs"]
    assert isinstance(inputs, dict)
    if inputs[field] != {"sha256": artifact.files[0].sha256}:
        raise DataError(f"{place}: has changed since this run was planned; run again")
    return artifact


def _input(run: StageRun, ref: Ref) -> Artifact:
    manifest = load_manifest(run.store, run.plan[ref.stage].key)
    assert manifest is not None, "a stage starts after those it needs"
    if ref.output not in manifest.artifacts:
        raise JobError(
            f"stages.{run.planned.name}: there is no {ref}, since no trial of {ref.stage} finished: its best was "
            "stopped early; give it more trials, or scheduler: {name: none}"
        )
    return manifest.artifacts[ref.output]
