"""Load the content of a report from the store: the manifests of the last run and the trials of its
searches."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from pydantic import ValidationError

from orchestrator.artifact import Artifact, Manifest
from orchestrator.contract import DETAILS, EPOCHS_FILE, Kind
from orchestrator.errors import IntegrityError
from orchestrator.history import Curve, Histories, StageHistory, StageState
from orchestrator.plan import Digests, make_plan
from orchestrator.planning import prior_runs
from orchestrator.runs.history import load_histories
from orchestrator.runs.last_run import LastRun, LastStage, last_run_name, load_last_run
from orchestrator.runs.record import load_record
from orchestrator.runs.status import make_status
from orchestrator.spec import Job, Stage, job_from_document
from orchestrator.store.attempts import runs_of
from orchestrator.store.protocol import Store
from orchestrator.store.publish import fetch_artifact, load_manifest, training_name
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
    keys: Mapping[str, str]
    """The Keys as last run, by stage."""


def load_results(job: Job, store: Store, *, kinds: Mapping[str, Kind]) -> Results:
    """Return the results of the job's last run. Reads only the store, not the data."""
    last = load_last_run(store, job.name)
    if last is None:
        return Results(job, {}, {}, None, {})
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
        keys={name: last.stages[name].key for name in names if name in last.stages},
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


SHOWN_DETAILS = re.compile(r"per_class\.json|confusion\.(json|png)|painted/[^/]+")
"""Files of an evaluation's details that a page shows; predictions may be thousands."""


@dataclass(frozen=True)
class Training:
    """How the stages of a job trained, and what became of each in the last run."""

    states: Mapping[str, StageState]
    histories: Histories
    run_error: str | None = None
    """Why the last run as a whole ended early."""


def load_training(results: Results, store: Store, *, now_s: float) -> Training:
    """States, attempts and curves of the stages. Raises StoreError where the store is out of reach;
    what is damaged is a remark."""
    if results.run_id is None:
        return Training({}, Histories({}, ()))
    remarks: list[str] = []
    states: dict[str, StageState] = {}
    run_error = None
    try:
        record = load_record(store, results.run_id)
    except IntegrityError as err:
        remarks.append(f"the states and curves of the last run are not known: {err}")
    else:
        status = make_status(results.job, record, others=results.manifests, now_s=now_s)
        errors = {name: stage.error for name, stage in record.stages.items()}
        states = {
            row.stage: StageState(row.state.value, errors.get(row.stage)) for row in status.stages
        }
        run_error = record.error
    run_ids = {
        run_id
        for name, key in results.keys.items()
        for run_id in _runs_that_trained(key, results.manifests.get(name), store)
    }
    known = {results.run_id} if states else set()
    run_ids = (run_ids - {results.run_id}) | known
    histories = load_histories(store, run_ids, keys=results.keys.values())
    remarks += histories.remarks
    for name, manifest in results.manifests.items():
        try:
            _take_epochs(histories.stages[manifest.key], manifest, store)
        except (IntegrityError, ValueError, KeyError, TypeError) as err:
            remarks.append(f"stages.{name}: its {EPOCHS_FILE} is left out: {err}")
    return Training(states, replace(histories, remarks=tuple(remarks)), run_error)


def _take_epochs(history: StageHistory, manifest: Manifest, store: Store) -> None:
    """Take the curves from the published log, which has every epoch. A driver that was killed may
    have lost events."""
    files = [
        file
        for artifact in manifest.artifacts.values()
        for file in artifact.files
        if file.path == EPOCHS_FILE
    ]
    if not files:
        return
    with TemporaryDirectory() as folder:
        fetched = fetch_artifact(
            store, Artifact(files=tuple(files)), Path(folder), key=manifest.key
        )
        lines = (fetched / EPOCHS_FILE).read_text().splitlines()
    curves: dict[str, Curve] = {name: Curve() for name in history.curves}
    for record in map(json.loads, lines):
        for name in curves.keys() & record.keys():
            time_s = _time_of(history.curves[name], record["epoch"])
            curves[name].add(record["epoch"], record[name], time_s)
    history.curves |= {name: curve for name, curve in curves.items() if curve.done}


def _time_of(curve: Curve, done: float) -> float:
    """When the curve's point at `done` was logged, or the last one before it."""
    index = bisect_right(curve.done, done)
    return curve.times_s[max(0, index - 1)]


def _runs_that_trained(key: str, manifest: Manifest | None, store: Store) -> tuple[str, ...]:
    """Runs are listed in the manifest, and for an unfinished stage next to its checkpoints."""
    if manifest is None:
        return runs_of(store, training_name(key))
    runs = manifest.provenance.get("runs") or [manifest.provenance.get("run_id")]
    return tuple(str(run) for run in runs if run) if isinstance(runs, list) else ()


class FoundDetails(NamedTuple):
    """By stage, the files of its details that a page shows, by path; and a remark for each stage
    whose details cannot be read."""

    files: Mapping[str, Mapping[str, bytes]]
    remarks: tuple[str, ...]


def load_details(manifests: Mapping[str, Manifest], store: Store) -> FoundDetails:
    """The details of each evaluation. Raises StoreError where the store is out of reach."""
    files: dict[str, Mapping[str, bytes]] = {}
    remarks: list[str] = []
    for name, manifest in manifests.items():
        if DETAILS not in manifest.artifacts:
            continue
        shown = [
            file for file in manifest.artifacts[DETAILS].files if SHOWN_DETAILS.fullmatch(file.path)
        ]
        with TemporaryDirectory() as folder:
            try:
                artifact = Artifact(files=tuple(shown))
                fetched = fetch_artifact(store, artifact, Path(folder), key=manifest.key)
            except IntegrityError as err:
                remarks.append(f"stages.{name}: its details are left out: {err}")
                continue
            files[name] = {file.path: (fetched / file.path).read_bytes() for file in shown}
    return FoundDetails(files, tuple(remarks))


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
        artifact = Artifact(files=(file,))
        path = fetch_artifact(store, artifact, Path(folder), key=manifest.key) / TRIALS_FILE
        try:
            return Trials.model_validate_json(path.read_bytes())
        except ValidationError as err:
            again = f"run again with --force {stage} to create it again"
            raise IntegrityError(f"its {TRIALS_FILE} is from another release; {again}") from err
