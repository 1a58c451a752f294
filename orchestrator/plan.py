"""The Plan: the stages in order, each with its Key, a verdict and the reason. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from graphlib import TopologicalSorter

from pydantic import JsonValue

from orchestrator.fingerprint import KeyInputs, Recipe, key_of, recipe_of
from orchestrator.spec import Job, Stage


class Verdict(StrEnum):
    RUN = "RUN"
    REUSE = "REUSE"


@dataclass(frozen=True)
class PlannedStage:
    """A stage with its Key, verdict and reason."""

    stage: Stage
    recipe: Recipe
    key: str
    verdict: Verdict
    why: str

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def rerun(self) -> int:
        rerun = self.recipe["rerun"]
        assert isinstance(rerun, int)
        return rerun


@dataclass(frozen=True)
class Plan:
    job: Job
    stages: tuple[PlannedStage, ...]
    """All stages of the job, or those that a partial run needs."""

    def __getitem__(self, name: str) -> PlannedStage:
        return next(planned for planned in self.stages if planned.name == name)

    def to_json(self) -> dict[str, JsonValue]:
        return {"job": self.job.name, "stages": [_stage_json(planned) for planned in self.stages]}


def _stage_json(planned: PlannedStage) -> dict[str, JsonValue]:
    return {
        "name": planned.name,
        "kind": planned.stage.kind.name,
        "key": planned.key,
        "verdict": planned.verdict.value,
        "why": planned.why,
        "data_fingerprint": planned.recipe["data"],
        "needs": list(planned.stage.needs),
    }


@dataclass(frozen=True)
class PriorRuns:
    """What the store has about earlier runs of the job."""

    is_done: Callable[[str], bool]
    """Whether the store has a manifest for a Key."""
    recipes: Mapping[str, Recipe]
    """Each stage's recipe in the last run, to report what changed."""
    reruns: Mapping[str, int]


@dataclass(frozen=True)
class Digests:
    """Digests of what a stage reads from outside the job."""

    data: str
    """The fingerprint of its data."""
    files: Mapping[str, str]
    """The sha256 of each input that is a file, and of each other file that the params name, by
    field."""


def make_plan(job: Job, *, digests: Mapping[str, Digests], prior: PriorRuns) -> Plan:
    """Return the plan of the stages in `digests`, which must include the stages that they need.

    Keys hash recipes, so the whole plan is known before anything runs.
    """
    planned: dict[str, PlannedStage] = {}
    for name in (name for name in in_order(job) if name in digests):
        stage = job.stages[name]
        keys = {need: planned[need].key for need in stage.needs}
        read = digests[name]
        key_inputs = KeyInputs(
            data=read.data,
            rerun=prior.reruns.get(name, 0),
            input_keys=keys,
            file_digests=read.files,
        )
        planned[name] = _plan_stage(stage, recipe_of(job, stage, key_inputs), prior)
    return Plan(job, tuple(planned.values()))


def in_order(job: Job) -> tuple[str, ...]:
    """Names of the stages, each after those that it needs, otherwise in the order of the file."""
    sorter = TopologicalSorter({name: stage.needs for name, stage in job.stages.items()})
    return tuple(sorter.static_order())


def needed(job: Job, names: Iterable[str]) -> tuple[str, ...]:
    """The stages `names` and all stages that they need, each after those that it needs."""
    order, wanted = in_order(job), set(names)
    for name in reversed(order):
        if name in wanted:
            wanted.update(job.stages[name].needs)
    return tuple(name for name in order if name in wanted)


def _plan_stage(stage: Stage, recipe: Recipe, prior: PriorRuns) -> PlannedStage:
    key = key_of(recipe)
    if prior.is_done(key):
        return PlannedStage(stage, recipe, key, Verdict.REUSE, f"its manifest {key[:8]} exists")
    return PlannedStage(stage, recipe, key, Verdict.RUN, _why(stage.name, recipe, prior))


def _why(name: str, recipe: Recipe, prior: PriorRuns) -> str:
    last = prior.recipes.get(name)
    if last is None:
        return "it has not run yet"
    changes = list(_changes("", last, recipe))
    return "; ".join(changes) if changes else "it has not finished yet"


def _changes(path: str, before: JsonValue | Recipe, now: JsonValue | Recipe) -> Iterator[str]:
    """Describe the differences between two recipes."""
    if before == now:
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*before, *now]):
            yield from _changes(f"{path}.{name}", before.get(name), now.get(name))
        return
    match path.removeprefix(".").split("."):
        case ["data"]:
            yield "its data changed"
        case ["rerun"]:
            yield f"forced, rerun {now}"
        case ["inputs", field, *_]:
            yield f"its input {field} changed"
        case ["params", *names]:
            yield f"{'.'.join(names)}: {_short(before)} -> {_short(now)}"
        case other:
            yield f"{'.'.join(other)}: {_short(before)} -> {_short(now)}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004
