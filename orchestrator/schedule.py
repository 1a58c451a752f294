"""Decide which stages start next and on which machines. Pure: decisions are values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from orchestrator.capacity import Machine, group_capacity, lacking, total_of
from orchestrator.fleet import Placement, Vacancies, idle, missing_room, usable_machines
from orchestrator.plan import Plan, PlannedStage
from orchestrator.spec import TuneParams


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    REUSED = "reused"
    FAILED = "failed"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in (State.WAITING, State.RUNNING)


HAS_NO_RESULT = (State.FAILED, State.CANCELLED, State.BLOCKED)
"""The states in which a stage ends without its outputs."""


@dataclass(frozen=True)
class Start:
    """Start `stage`, for which the run first reserves `placement`. `slots` is the number of trials
    at a time of a search."""

    stage: PlannedStage
    placement: Placement
    slots: int


@dataclass(frozen=True)
class Block:
    """`stage` will not run in this run."""

    stage: PlannedStage
    why: str


@dataclass(frozen=True)
class Queue:
    """What decides in which order stages start that are ready at the same time."""

    lengths_s: Mapping[str, float] = field(default_factory=dict)
    """By stage, the time from its start to the end of the last stage that needs it."""
    overdue: frozenset[str] = frozenset()
    """The stages that have waited so long that machines are kept for them."""
    elsewhere: Collection[str] = frozenset()
    """The stages that are running in another run."""
    can_grow: bool = False
    """Whether the cluster's autoscaler may start machines: a stage without room then starts to wait
    for them."""

    def sort(self, ready: Sequence[PlannedStage]) -> list[PlannedStage]:
        """Return the stages in the order in which they may start: overdue ones first, then those on
        the longest path."""

        def rank(planned: PlannedStage) -> tuple[bool, float]:
            return planned.name not in self.overdue, -self.lengths_s.get(planned.name, 0)

        return sorted(ready, key=rank)


def decide(
    plan: Plan, states: Mapping[str, State], *, machines: Sequence[Machine], queue: Queue
) -> Iterator[Start | Block]:
    """Yield the decisions for now. `machines` are used by the stages of this run.

    A stage starts once the stages that it needs are finished and there is room for its smallest
    group. If it can use more, it takes more when its group starts (`Room`), so that first as many
    stages as possible begin. A stage that no longer fits on any machine starts too, and so does
    one for which machines may be started: it waits for them, and fails with a clear message if none
    join.
    """
    for planned in plan.stages:
        if states[planned.name] is State.WAITING and (broken := _broken(planned, states)):
            yield Block(planned, f"it needs {', '.join(broken)}")
    vacancies = Vacancies(machines)
    for planned in queue.sort(ready_stages(plan, states)):
        if planned.name in queue.elsewhere:
            continue
        start = _start(planned, vacancies, can_grow=queue.can_grow)
        if start is not None:
            yield start
        elif planned.name in queue.overdue:
            resources, counts = planned.stage.resources, planned.stage.worker_counts
            vacancies.claim(resources, num_workers=counts[0])


def ready_stages(plan: Plan, states: Mapping[str, State]) -> list[PlannedStage]:
    """Return the waiting stages that need no other stage any more."""
    return [
        planned
        for planned in plan.stages
        if states[planned.name] is State.WAITING
        and not _unfinished(planned, states)
        and not _broken(planned, states)
    ]


def find_waits(
    plan: Plan,
    states: Mapping[str, State],
    *,
    machines: Sequence[Machine],
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Return what each waiting stage waits for, by its name: `needs pretrain` for unfinished
    stages, `needs 8 GPUs, 4 free`, or the text in `elsewhere`.

    `machines` are also used by the stages that start now.
    """
    waits: dict[str, str] = {}
    for planned in plan.stages:
        if states[planned.name] is not State.WAITING:
            continue
        if planned.name in elsewhere:
            waits[planned.name] = elsewhere[planned.name]
        elif unfinished := _unfinished(planned, states):
            waits[planned.name] = f"needs {', '.join(unfinished)}"
        elif (reason := _lack(planned, machines)) is not None:
            waits[planned.name] = reason
    return waits


def _lack(planned: PlannedStage, machines: Sequence[Machine]) -> str | None:
    """Return why a ready stage does not start. None if it starts at once."""
    resources, num_workers = planned.stage.resources, planned.stage.worker_counts[0]
    usable = usable_machines(resources, machines, num_workers=num_workers)
    free = total_of(machine.free for machine in usable)
    lack = lacking(group_capacity(planned.stage), free)
    if lack is not None:
        return f"needs {lack}"
    return missing_room(resources, machines, num_workers=num_workers)


def _unfinished(planned: PlannedStage, states: Mapping[str, State]) -> list[str]:
    return [name for name in planned.stage.needs if not states[name].is_final]


def _broken(planned: PlannedStage, states: Mapping[str, State]) -> list[str]:
    return [name for name in planned.stage.needs if states[name] in HAS_NO_RESULT]


def _start(planned: PlannedStage, vacancies: Vacancies, *, can_grow: bool) -> Start | None:
    """Place the stage, and of a search as many trials as fit, or return None."""
    stage, workers = planned.stage, planned.stage.worker_counts[0]
    wanted = 1 if stage.search is None else _wanted_trials(stage.search)
    for slots in range(wanted, 0, -1):
        placement = vacancies.take(stage.resources, num_workers=workers * slots, least=workers)
        if placement is not None:
            return Start(planned, placement, slots)
    whole = idle(vacancies.machines)
    if not can_grow and missing_room(stage.resources, whole, num_workers=workers) is None:
        return None
    return Start(planned, {}, wanted if can_grow else 1)


def _wanted_trials(params: TuneParams) -> int:
    return (
        params.size if params.max_concurrent == "auto" else min(params.size, params.max_concurrent)
    )
