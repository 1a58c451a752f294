"""`jobs/<name>/latest.json`: the resolved job with its Keys, as last run. `status` and `report`
read it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from orchestrator.artifact import Value
from orchestrator.errors import IntegrityError
from orchestrator.plan import Plan
from orchestrator.spec import Stage, job_document
from orchestrator.store.protocol import Store


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
    """Stages of the last run, and earlier ones that a partial run (`--only`) did not include."""

    def has_inputs_of(self, stage: Stage) -> bool:
        """Whether the stage was run on the outputs in this record of the stages that it needs.

        A later partial run may have replaced these outputs.
        """
        inputs = self.stages[stage.name].recipe["inputs"]
        assert isinstance(inputs, dict)
        keys = {
            str(ref["key"]) for ref in inputs.values() if isinstance(ref, dict) and "key" in ref
        }
        return keys == {self.stages[name].key for name in stage.needs if name in self.stages}


def last_run_name(job_name: str) -> str:
    return f"jobs/{job_name}/latest.json"


def load_last_run(store: Store, job_name: str) -> LastRun | None:
    """Return the job's last run in this store, or None if it has not run there."""
    document = store.read(last_run_name(job_name))
    if document is None:
        return None
    try:
        return LastRun.model_validate_json(document)
    except ValueError as err:
        where = f"store {store.uri}: {last_run_name(job_name)}"
        raise IntegrityError(f"{where}: not a record of a run: {err}; delete it") from err


def write_last_run(store: Store, plan: Plan, *, run_id: str) -> None:
    """Write `plan` as the job's last run. Earlier records of stages outside the plan are kept."""
    stages = {
        planned.name: LastStage(key=planned.key, recipe=planned.recipe, rerun=planned.rerun)
        for planned in plan.stages
    }
    record = LastRun(job=job_document(plan.job), run_id=run_id, stages=stages)
    if stages.keys() < plan.job.stages.keys():
        record = _with_others(record, load_last_run(store, plan.job.name))
    store.write(last_run_name(plan.job.name), record.model_dump_json(indent=2).encode())


def _with_others(record: LastRun, before: LastRun | None) -> LastRun:
    """Return `record` plus the stages of the run `before` that it lacks, with their params of that
    time."""
    if before is None:
        return record
    kept = {name: stage for name, stage in before.stages.items() if name not in record.stages}
    then, now = _stage_documents(before), _stage_documents(record)
    job = {**record.job, "stages": {**now, **{name: then[name] for name in then if name in kept}}}
    return record.model_copy(update={"job": job, "stages": {**record.stages, **kept}})


def _stage_documents(record: LastRun) -> dict[str, JsonValue]:
    stages = record.job["stages"]
    assert isinstance(stages, dict), "job_document"
    return stages
