"""Decide which stages start next and with what capacity. Pure: decisions are values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from orchestrator.capacity import Capacity, group_capacity, lacking
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
    """Start `stage`, which initially takes `capacity`. `slots` is the number of trials at a time of
    a search."""

    stage: PlannedStage
    capacity: Capacity
    slots: int


@dataclass(frozen=True)
class Block:
    """`stage` will not run in this run."""

    stage: PlannedStage
    why: str


def decide(
    plan: Plan,
    states: Mapping[str, State],
    *,
    free: Capacity,
    elsewhere: Collection[str] = frozenset(),
) -> Iterator[Start | Block]:
    """Yield the decisions for now. The stages `elsewhere` are running in another run.

    A stage starts once the stages that it needs are finished and its minimum capacity is free. If
    it can use more, it takes more when its group starts (`choose_workers`), so that first as many
    stages as possible begin.
    """
    for planned in plan.stages:
        if states[planned.name] is not State.WAITING:
            continue
        broken = [name for name in planned.stage.needs if states[name] in HAS_NO_RESULT]
        if broken:
            yield Block(planned, f"it needs {', '.join(broken)}")
            continue
        if planned.name in elsewhere or not all(
            states[name].is_final for name in planned.stage.needs
        ):
            continue
        slots = _slots(planned, free)
        if slots:
            capacity = group_capacity(planned.stage) * slots
            free -= capacity
            yield Start(planned, capacity, slots)


def find_waits(
    plan: Plan,
    states: Mapping[str, State],
    *,
    free: Capacity,
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Return what each waiting stage waits for, by its name: `needs pretrain` for unfinished
    stages, `needs 8 GPUs, 4 free`, or the text in `elsewhere`.

    `free` is what is left after the stages that start now took theirs.
    """
    waits: dict[str, str] = {}
    for planned in plan.stages:
        if states[planned.name] is not State.WAITING:
            continue
        unfinished = [name for name in planned.stage.needs if not states[name].is_final]
        if planned.name in elsewhere:
            waits[planned.name] = elsewhere[planned.name]
            continue
        lack = lacking(group_capacity(planned.stage), free)
        reason = ", ".join(unfinished) or lack
        if reason is not None:
            waits[planned.name] = f"needs {reason}"
    return waits


def _slots(planned: PlannedStage, free: Capacity) -> int:
    """The number of the stage's worker groups that fit now, up to 1 or a search's number of
    trials."""
    search = planned.stage.search
    wanted = 1 if search is None else _wanted_trials(search)
    group = group_capacity(planned.stage)
    while wanted and not group * wanted <= free:
        wanted -= 1
    return wanted


def _wanted_trials(params: TuneParams) -> int:
    return (
        params.size if params.max_concurrent == "auto" else min(params.size, params.max_concurrent)
    )
