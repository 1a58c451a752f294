"""Load the content of a report from the store: the manifests of the last run and the trials of its
searches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from pydantic import ValidationError

from orchestrator.artifact import Artifact, Manifest
from orchestrator.contract import Kind
from orchestrator.errors import IntegrityError
from orchestrator.plan import Digests, make_plan
from orchestrator.planning import prior_runs
from orchestrator.runs.last_run import LastRun, LastStage, last_run_name, load_last_run
from orchestrator.spec import Job, Stage, job_from_document
from orchestrator.store.protocol import Store
from orchestrator.store.publish import fetch_artifact, load_manifest
from orchestrator.trials import TRIALS_FILE, Trials


@dataclass(frozen=True)
class Results:
    """The content of a report."""

    job: Job
    """The job as last run, but with `expect` and `published` from the job file, and with the file's
    stages that never ran."""
    manifests: Mapping[str, Manifest]
    """The manifests of finished stages, by stage."""
    changes: Mapping[str, str]
    """How the job file differs from the last run, by stage."""
    run_id: str | None
    """The id of the last run, or None if the job has not run with this store."""


def load_results(job: Job, store: Store, *, kinds: Mapping[str, Kind]) -> Results:
    """Return the results of the job's last run. Reads only the store, not the data."""
    last = load_last_run(store, job.name)
    if last is None:
        return Results(job, {}, {}, None)
    where = f"store {store.uri}: {last_run_name(job.name)}"
    ran = job_from_document(last.job, kinds=kinds, where=where).stages
    found = {
        name: load_manifest(store, last.stages[name].key)
        for name in ran
        if _is_shown(name, ran, last)
    }
    names = dict.fromkeys([*job.stages, *ran])
    return Results(
        job=replace(
            job, stages={name: _as_run(ran.get(name), job.stages.get(name)) for name in names}
        ),
        manifests={name: manifest for name, manifest in found.items() if manifest is not None},
        changes=_changes_since(job, last),
        run_id=last.run_id,
    )


def _is_shown(name: str, ran: Mapping[str, Stage], last: LastRun) -> bool:
    """Whether the stage's numbers were made from the inputs in the record."""
    return name in last.stages and last.has_inputs_of(ran[name])


def _as_run(ran: Stage | None, now: Stage | None) -> Stage:
    """Return the stage as it ran, with `expect` and `published` of now if they are comparable.

    One of the two may be None.
    """
    if ran is None or now is None:
        stage = ran or now
        assert stage is not None
        return stage
    is_comparable = now.kind == ran.kind and now.metrics == ran.metrics
    return replace(ran, expect=now.expect, published=now.published) if is_comparable else ran


def _changes_since(job: Job, last: LastRun) -> dict[str, str]:
    """Describe how the recipe of each stage that ran has changed, assuming unchanged data."""
    digests = {name: _digests_then(job.stages[name], last.stages.get(name)) for name in job.stages}
    plan = make_plan(job, digests=digests, prior=prior_runs(last, is_done=lambda key: False))
    ran = (planned for planned in plan.stages if planned.name in last.stages)
    return {
        planned.name: planned.why for planned in ran if planned.key != last.stages[planned.name].key
    }


def _digests_then(stage: Stage, last: LastStage | None) -> Digests:
    """Return the digests that the stage had when it ran; empty ones for what it did not read."""
    inputs = last.recipe["inputs"] if last else None
    then = inputs if isinstance(inputs, dict) else {}
    held = {
        field: str(was["sha256"])
        for field, was in then.items()
        if isinstance(was, dict) and "sha256" in was
    }
    return Digests(
        data=str(last.recipe["data"]) if last else "",
        files={
            **dict.fromkeys(stage.files, ""),
            **{field: digest for field, digest in held.items() if field not in stage.inputs},
        },
    )


OUTPUT = "trials"


class FoundTrials(NamedTuple):
    """The trials of searches by stage, and a remark for each search whose trials cannot be read."""

    trials: Mapping[str, Trials]
    remarks: tuple[str, ...]


def load_trials(job: Job, manifests: Mapping[str, Manifest], store: Store) -> FoundTrials:
    """Return the trials of each finished search of `job`. Raises StoreError if the store is
    unreachable."""
    trials: dict[str, Trials] = {}
    remarks: list[str] = []
    for name, stage in job.stages.items():
        if stage.search is None or name not in manifests:
            continue
        try:
            trials[name] = _fetch_trials(name, manifests[name], store)
        except IntegrityError as err:  # the report's cells do not depend on the trials
            remarks.append(f"stages.{name}: its trials are not shown: {err}")
    return FoundTrials(trials, tuple(remarks))


def _fetch_trials(stage: str, manifest: Manifest, store: Store) -> Trials:
    """Fetch the trials. Raises IntegrityError for altered bytes and for another release's
    format."""
    artifact = manifest.artifacts.get(OUTPUT)
    file = (
        next((file for file in artifact.files if file.path == TRIALS_FILE), None)
        if artifact
        else None
    )
    if file is None:
        raise IntegrityError(f"the stage did not publish {TRIALS_FILE}")
    with TemporaryDirectory() as folder:
        path = fetch_artifact(store, Artifact(files=(file,)), Path(folder)) / TRIALS_FILE
        try:
            return Trials.model_validate_json(path.read_bytes())
        except ValidationError as err:
            again = f"run again with --force {stage} to create it again"
            raise IntegrityError(f"its {TRIALS_FILE} is from another release; {again}") from err
