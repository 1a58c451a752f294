"""What a store remembers about a job: the last run's plan and how often each stage was forced to run anew."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar, cast

from pydantic import JsonValue

from orchestrator.artifact import Manifest, Value, canonical_json
from orchestrator.contract import Kind, Params, Role
from orchestrator.errors import DataError, IntegrityError
from orchestrator.plan import Digests, Past, Plan, make_plan, needed
from orchestrator.spec import Job, Stage, TuneParams, job_document, job_from_document, template_params
from orchestrator.store.outside import digest_outside
from orchestrator.store.protocol import Store
from orchestrator.store.publish import load_manifest

_T = TypeVar("_T")


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
    """Those of the last run, and those of earlier ones that a run of a part (`--only`) left aside."""

    def has_inputs_of(self, stage: Stage) -> bool:
        """Whether the stage was run on the outputs that the stages it needs have by this record.

        A run of a part may have renewed these.
        """
        inputs = self.stages[stage.name].recipe["inputs"]
        assert isinstance(inputs, dict)
        keys = {str(ref["key"]) for ref in inputs.values() if isinstance(ref, dict) and "key" in ref}
        return keys == {self.stages[name].key for name in stage.needs if name in self.stages}


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
    """Write `plan` as the job's last run. What earlier runs recorded of stages outside it is kept."""
    stages = {
        planned.name: LastStage(key=planned.key, recipe=planned.recipe, rerun=planned.rerun) for planned in plan.stages
    }
    record = LastRun(job=job_document(plan.job), run_id=run_id, stages=stages)
    if stages.keys() < plan.job.stages.keys():
        record = _kept_beside(record, load_last_run(store, plan.job.name))
    store.write(last_run_name(plan.job.name), record.model_dump_json(indent=2).encode())


def _kept_beside(record: LastRun, before: LastRun | None) -> LastRun:
    """`record` with the stages of the run `before` that it lacks, each with its params of then."""
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


def plan_job(job: Job, store: Store, *, forced: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> Plan:
    """The plan of `job` against `store`, or of just the stages `only` with what they need.

    Fingerprints the data of the planned stages. Raises DataError, StoreError.
    """
    last = load_last_run(store, job.name)
    past = _past(last, is_done=lambda key: load_manifest(store, key) is not None)
    reruns = {**past.reruns, **{name: past.reruns.get(name, 0) + 1 for name in forced}}
    names = needed(job, only) if only else job.stages
    return make_plan(job, digests=read_digests(job, names), past=replace(past, reruns=reruns))


def _past(last: LastRun | None, *, is_done: Callable[[str], bool]) -> Past:
    stages = last.stages if last else {}
    return Past(
        is_done=is_done,
        recipes={name: stage.recipe for name, stage in stages.items()},
        reruns={name: stage.rerun for name, stage in stages.items()},
    )


@dataclass(frozen=True)
class Results:
    """What a report is made of."""

    job: Job
    """As last run, with what the job file expects and has published now, and with its stages that never ran."""
    manifests: Mapping[str, Manifest]
    """By stage, without those that did not finish."""
    changes: Mapping[str, str]
    """By stage, how the job file differs from what was run."""
    run_id: str | None
    """Of the last run; None where the job has not run here."""


def load_results(job: Job, store: Store, *, kinds: Mapping[str, Kind]) -> Results:
    """The results of the job's last run. Reads the store alone: the data need not be at hand."""
    last = load_last_run(store, job.name)
    if last is None:
        return Results(job, {}, {}, None)
    where = f"store {store.uri}: {last_run_name(job.name)}"
    ran = job_from_document(last.job, kinds=kinds, where=where).stages
    found = {name: load_manifest(store, last.stages[name].key) for name in ran if _is_shown(name, ran, last)}
    names = dict.fromkeys([*job.stages, *ran])
    return Results(
        job=replace(job, stages={name: _as_run(ran.get(name), job.stages.get(name)) for name in names}),
        manifests={name: manifest for name, manifest in found.items() if manifest is not None},
        changes=_changes_since(job, last),
        run_id=last.run_id,
    )


def _is_shown(name: str, ran: Mapping[str, Stage], last: LastRun) -> bool:
    """Whether the stage's numbers are those of the pipeline that the record describes."""
    return name in last.stages and last.has_inputs_of(ran[name])


def _as_run(ran: Stage | None, now: Stage | None) -> Stage:
    """The stage as it ran, but held against what it is held against now; either may be missing, not both."""
    if ran is None or now is None:
        stage = ran or now
        assert stage is not None
        return stage
    is_comparable = now.kind == ran.kind and now.metrics == ran.metrics
    return replace(ran, expect=now.expect, published=now.published) if is_comparable else ran


def _changes_since(job: Job, last: LastRun) -> dict[str, str]:
    """By stage that ran: what its recipe has become, supposing that the data are the same."""
    digests = {name: _digests_then(job.stages[name], last.stages.get(name)) for name in job.stages}
    plan = make_plan(job, digests=digests, past=_past(last, is_done=lambda key: False))
    ran = (planned for planned in plan.stages if planned.name in last.stages)
    return {planned.name: planned.why for planned in ran if planned.key != last.stages[planned.name].key}


def _digests_then(stage: Stage, last: LastStage | None) -> Digests:
    """What the stage read when it ran; empty digests for what it had not."""
    inputs = last.recipe["inputs"] if last else None
    then = inputs if isinstance(inputs, dict) else {}
    held = {field: str(was["sha256"]) for field, was in then.items() if isinstance(was, dict) and "sha256" in was}
    return Digests(
        data=str(last.recipe["data"]) if last else "",
        files={
            **dict.fromkeys(stage.files, ""),
            **{field: digest for field, digest in held.items() if field not in stage.inputs},
        },
    )


def read_digests(job: Job, names: Collection[str]) -> dict[str, Digests]:
    """Digests of all that the stages `names` read from outside, by stage.

    Raises one DataError that lists every fault, each with its stage.
    """
    digests: dict[str, Digests] = {}
    faults: dict[str, str] = {}
    once = _Once()
    for name in names:
        stage = job.stages[name]
        try:
            digests[name] = Digests(_fingerprint(job, stage, once), _files(job, stage, once))
        except DataError as err:
            faults.setdefault(str(err), name)
    if faults:
        raise DataError("\n".join(f"stages.{name}: {fault}" for fault, name in faults.items()))
    return digests


class _Once:
    """Reads each thing once, however many stages of the job name it, and remembers its fault, too."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}

    def __call__(self, what: Hashable, read: Callable[[], _T]) -> _T:
        """What `read` returned for `what`. Raises DataError for its DataError, and for any file it cannot read."""
        if what not in self._found:
            try:
                self._found[what] = read()
            except DataError as err:
                self._found[what] = err
            except OSError as err:  # a kind that handles some of them will meet others
                self._found[what] = DataError(f"{err.filename or 'data'}: cannot be read: {err.strerror or err}")
        found = self._found[what]
        if isinstance(found, DataError):
            raise found
        return cast(_T, found)


def _files(job: Job, stage: Stage, once: _Once) -> dict[str, str]:
    """The digests of inputs from outside the job, and of what files the params name besides."""
    searched = job.stages[stage.params.of] if isinstance(stage.params, TuneParams) else None
    kind, params = (searched.kind, template_params(job, stage)) if searched else (stage.kind, stage.params)
    digests = {field: once(place, partial(digest_outside, place)) for field, place in stage.files.items()}
    named = {field: getattr(params, field) for field in params.fields_with(Role.DATA)}
    return {**digests, **once((kind.reads, canonical_json(named)), lambda: kind.reads(params))}


def _fingerprint(job: Job, stage: Stage, once: _Once) -> str:
    """What the data are, as the job states it or as they are found."""
    if not isinstance(stage.params, TuneParams):
        return stage.data_fingerprint or _fingerprint_of(stage.kind, stage.params, once)
    template = job.stages[stage.params.of]
    has_own_data = not stage.params.overrides.keys().isdisjoint(template.params.fields_with(Role.DATA))
    stated = stage.data_fingerprint or (None if has_own_data else template.data_fingerprint)
    return stated or _fingerprint_of(template.kind, template_params(job, stage), once)


def _fingerprint_of(kind: Kind, params: Params, once: _Once) -> str:
    if not params.fingerprinted:
        return once(object(), lambda: kind.fingerprint(params))
    fields = params.model_dump(mode="json", include=set(params.fingerprinted))
    return once((kind.fingerprint, canonical_json(fields)), lambda: kind.fingerprint(params))
