"""What a report is made of, read only from the store: manifests of the last run and the trials of
its searches."""

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
    """What a report is made of."""

    job: Job
    """As last run, with what the job file expects and has published now, and with its stages that
    never ran."""
    manifests: Mapping[str, Manifest]
    """By stage, without those that did not finish."""
    changes: Mapping[str, str]
    """By stage, how the job file differs from what was run."""
    run_id: str | None
    """Id of the last run; None where the job has not run here."""


def load_results(job: Job, store: Store, *, kinds: Mapping[str, Kind]) -> Results:
    """The results of the job's last run. Reads only the store: the data need not be there."""
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
    """Whether the stage's numbers belong to the pipeline that the record describes."""
    return name in last.stages and last.has_inputs_of(ran[name])


def _as_run(ran: Stage | None, now: Stage | None) -> Stage:
    """The stage as it ran, but held against what it is held against now; either may be missing, not
    both."""
    if ran is None or now is None:
        stage = ran or now
        assert stage is not None
        return stage
    is_comparable = now.kind == ran.kind and now.metrics == ran.metrics
    return replace(ran, expect=now.expect, published=now.published) if is_comparable else ran


def _changes_since(job: Job, last: LastRun) -> dict[str, str]:
    """By stage that ran: what its recipe has become, supposing that the data are the same."""
    digests = {name: _digests_then(job.stages[name], last.stages.get(name)) for name in job.stages}
    plan = make_plan(job, digests=digests, prior=prior_runs(last, is_done=lambda key: False))
    ran = (planned for planned in plan.stages if planned.name in last.stages)
    return {
        planned.name: planned.why for planned in ran if planned.key != last.stages[planned.name].key
    }


def _digests_then(stage: Stage, last: LastStage | None) -> Digests:
    """What the stage read when it ran; empty digests for what it had not."""
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
    """By stage, the trials of its search; and a remark for each search whose trials cannot be
    read."""

    trials: Mapping[str, Trials]
    remarks: tuple[str, ...]


def load_trials(job: Job, manifests: Mapping[str, Manifest], store: Store) -> FoundTrials:
    """The trials of each finished search of `job`. Raises StoreError where the store is out of
    reach."""
    trials: dict[str, Trials] = {}
    remarks: list[str] = []
    for name, stage in job.stages.items():
        if stage.search is None or name not in manifests:
            continue
        try:
            trials[name] = _fetch_trials(name, manifests[name], store)
        except IntegrityError as err:  # the report's cells are right all the same
            remarks.append(f"stages.{name}: its trials are passed over: {err}")
    return FoundTrials(trials, tuple(remarks))


def _fetch_trials(stage: str, manifest: Manifest, store: Store) -> Trials:
    """Raises IntegrityError for altered bytes and for what another release published."""
    artifact = manifest.artifacts.get(OUTPUT)
    file = (
        next((file for file in artifact.files if file.path == TRIALS_FILE), None)
        if artifact
        else None
    )
    if file is None:
        raise IntegrityError(f"it published no {TRIALS_FILE}")
    with TemporaryDirectory() as folder:
        path = fetch_artifact(store, Artifact(files=(file,)), Path(folder)) / TRIALS_FILE
        try:
            return Trials.model_validate_json(path.read_bytes())
        except ValidationError as err:
            again = f"run again with --force {stage} to make it anew"
            raise IntegrityError(f"its {TRIALS_FILE} is that of another release; {again}") from err
