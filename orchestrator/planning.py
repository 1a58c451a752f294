"""Plan a job against a store: read the digests of its data, the last run and the manifests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

from orchestrator.artifact import canonical_json
from orchestrator.contract import Kind, Params, Role
from orchestrator.errors import DataError
from orchestrator.plan import Digests, Plan, PriorRuns, make_plan, needed
from orchestrator.runs.last_run import LastRun, load_last_run
from orchestrator.spec import Job, Stage, template_params
from orchestrator.store.outside import digest_outside
from orchestrator.store.protocol import Store
from orchestrator.store.publish import load_manifest

_T = TypeVar("_T")


def plan_job(
    job: Job, store: Store, *, forced: tuple[str, ...] = (), only: tuple[str, ...] = ()
) -> Plan:
    """Return the plan of `job` against `store`, or only of the stages `only` and those they need.

    Fingerprints the data of the planned stages. Raises DataError or StoreError.
    """
    last = load_last_run(store, job.name)
    prior = prior_runs(last, is_done=lambda key: load_manifest(store, key) is not None)
    reruns = {**prior.reruns, **{name: prior.reruns.get(name, 0) + 1 for name in forced}}
    names = needed(job, only) if only else job.stages
    return make_plan(job, digests=read_digests(job, names), prior=replace(prior, reruns=reruns))


def prior_runs(last: LastRun | None, *, is_done: Callable[[str], bool]) -> PriorRuns:
    stages = last.stages if last else {}
    return PriorRuns(
        is_done=is_done,
        recipes={name: stage.recipe for name, stage in stages.items()},
        reruns={name: stage.rerun for name, stage in stages.items()},
    )


def read_digests(job: Job, names: Collection[str]) -> dict[str, Digests]:
    """Return digests of everything that the stages `names` read from outside the job, by stage.

    Raises one DataError that lists every fault, each with its stage.
    """
    digests: dict[str, Digests] = {}
    faults: dict[str, str] = {}
    once = _ReadOnce()
    for name in names:
        stage = job.stages[name]
        try:
            digests[name] = Digests(_fingerprint(job, stage, once), _files(job, stage, once))
        except DataError as err:
            faults.setdefault(str(err), name)
    if faults:
        raise DataError("\n".join(f"stages.{name}: {fault}" for fault, name in faults.items()))
    return digests


class _ReadOnce:
    """Reads each thing only once, even if several stages name it. Faults are remembered, too."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}

    def __call__(self, what: Hashable, read: Callable[[], _T]) -> _T:
        """Return the result of `read` for `what`. Raises DataError if `read` does, or if it cannot
        read a file."""
        if what not in self._found:
            try:
                self._found[what] = read()
            except DataError as err:
                self._found[what] = err
            except OSError as err:  # those that the kind itself does not handle
                self._found[what] = DataError(
                    f"{err.filename or 'data'}: cannot be read: {err.strerror or err}"
                )
        found = self._found[what]
        if isinstance(found, DataError):
            raise found
        return cast(_T, found)


def _files(job: Job, stage: Stage, once: _ReadOnce) -> dict[str, str]:
    """Return the digests of inputs from outside the job, and of other files that the params
    name."""
    search = stage.search
    kind, params = (
        (job.stages[search.of].kind, template_params(job, stage))
        if search
        else (stage.kind, stage.params)
    )
    digests = {
        field: once(location, partial(digest_outside, location))
        for field, location in stage.files.items()
    }
    named = {field: getattr(params, field) for field in params.fields_with(Role.DATA)}
    return {**digests, **once((kind.reads, canonical_json(named)), lambda: kind.reads(params))}


def _fingerprint(job: Job, stage: Stage, once: _ReadOnce) -> str:
    """Return the fingerprint of the data, as the job states it or as computed."""
    search = stage.search
    if search is None:
        return stage.data_fingerprint or _fingerprint_of(stage.kind, stage.params, once)
    template = job.stages[search.of]
    has_own_data = not search.overrides.keys().isdisjoint(template.params.fields_with(Role.DATA))
    stated = stage.data_fingerprint or (None if has_own_data else template.data_fingerprint)
    return stated or _fingerprint_of(template.kind, template_params(job, stage), once)


def _fingerprint_of(kind: Kind, params: Params, once: _ReadOnce) -> str:
    if not params.fingerprinted:
        return once(object(), lambda: kind.fingerprint(params))
    fields = params.model_dump(mode="json", include=set(params.fingerprinted))
    return once((kind.fingerprint, canonical_json(fields)), lambda: kind.fingerprint(params))
