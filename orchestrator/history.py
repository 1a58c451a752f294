"""What a store remembers about a job: the last run's plan and how often each stage was forced to run anew."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from orchestrator.artifact import Manifest, Value
from orchestrator.errors import DataError, IntegrityError
from orchestrator.plan import Past, Plan, make_plan
from orchestrator.spec import Job, Stage, TuneParams, job_document, template_params
from orchestrator.store.protocol import Store
from orchestrator.store.publish import load_manifest

UNKNOWN_DATA = "unknown"
"""The fingerprint of data that no run has seen: no Key holds it."""


class LastStage(Value):
    """A stage as last run."""

    key: str
    recipe: Mapping[str, JsonValue]
    rerun: int


class LastRun(Value):
    """`jobs/<name>/latest.json`: the resolved job with its Keys, as last run."""

    schema_version: int = 1
    job: Mapping[str, JsonValue]
    run_id: str
    stages: Mapping[str, LastStage]


def last_run_name(job_name: str) -> str:
    return f"jobs/{job_name}/latest.json"


def load_last_run(store: Store, job_name: str) -> LastRun | None:
    """The job's last run in this store, or None when it has not run here."""
    document = store.read(last_run_name(job_name))
    if document is None:
        return None
    try:
        return LastRun.model_validate_json(document)
    except ValueError as err:
        where = f"store {store.uri}: {last_run_name(job_name)}"
        raise IntegrityError(f"{where}: not a record of a run: {err}; delete it to go on") from err


def write_last_run(store: Store, plan: Plan, *, run_id: str) -> None:
    stages = {
        planned.name: LastStage(key=planned.key, recipe=planned.recipe, rerun=planned.rerun) for planned in plan.stages
    }
    record = LastRun(job=job_document(plan.job), run_id=run_id, stages=stages)
    store.write(last_run_name(plan.job.name), record.model_dump_json(indent=2).encode())


def plan_job(job: Job, store: Store, *, forced: tuple[str, ...] = ()) -> Plan:
    """The plan of `job` against `store`; fingerprints the data. Raises DataError, StoreError."""
    last = load_last_run(store, job.name)
    reruns = {name: stage.rerun for name, stage in last.stages.items()} if last else {}
    recipes = {name: stage.recipe for name, stage in last.stages.items()} if last else {}
    for name in forced:
        reruns[name] = reruns.get(name, 0) + 1
    past = Past(is_done=lambda key: load_manifest(store, key) is not None, recipes=recipes, reruns=reruns)
    return make_plan(job, data=fingerprint_data(job), past=past)


def load_manifests(job: Job, store: Store) -> dict[str, Manifest]:
    """The manifest of each stage that ran as `job` has it now, by stage.

    The data's fingerprints are those of the last run, so that the data need not be at hand.
    """
    last = load_last_run(store, job.name)
    stages = last.stages if last else {}
    data = {name: str(stages[name].recipe["data"]) if name in stages else UNKNOWN_DATA for name in job.stages}
    reruns = {name: stage.rerun for name, stage in stages.items()}
    plan = make_plan(job, data=data, past=Past(is_done=lambda key: False, recipes={}, reruns=reruns))
    found = {planned.name: load_manifest(store, planned.key) for planned in plan.stages}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def fingerprint_data(job: Job) -> dict[str, str]:
    """Each stage's data fingerprint. Raises one DataError that lists every fault, each with its stage."""
    digests: dict[str, str] = {}
    faults: dict[str, str] = {}
    for name, stage in job.stages.items():
        try:
            digests[name] = _fingerprint(job, stage)
        except DataError as err:
            faults.setdefault(str(err), name)
    if faults:
        raise DataError("\n".join(f"stages.{name}: {fault}" for fault, name in faults.items()))
    return digests


def _fingerprint(job: Job, stage: Stage) -> str:
    if isinstance(stage.params, TuneParams):
        return job.stages[stage.params.of].kind.fingerprint(template_params(job, stage))
    return stage.kind.fingerprint(stage.params)
