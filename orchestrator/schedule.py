"""Which stage starts next, on what: decisions as values, a pure function of the plan and the states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.plan import Plan, PlannedStage
from orchestrator.spec import Resources, TuneParams


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    REUSED = "reused"
    FAILED = "failed"
    BLOCKED = "blocked"

    @property
    def is_final(self) -> bool:
        return self not in (State.WAITING, State.RUNNING)


@dataclass(frozen=True)
class Capacity:
    """CPUs and GPUs: of a machine, of a cluster, or asked for."""

    cpus: float
    gpus: float

    def __add__(self, other: Capacity) -> Capacity:
        return Capacity(self.cpus + other.cpus, self.gpus + other.gpus)

    def __sub__(self, other: Capacity) -> Capacity:
        return Capacity(self.cpus - other.cpus, self.gpus - other.gpus)

    def __mul__(self, count: int) -> Capacity:
        return Capacity(self.cpus * count, self.gpus * count)

    def __le__(self, other: Capacity) -> bool:
        return self.cpus <= other.cpus and self.gpus <= other.gpus

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")


@dataclass(frozen=True)
class Start:
    """Begin `stage`; it holds `capacity` until it ends. `slots`: how many trials at a time, for a search."""

    stage: PlannedStage
    capacity: Capacity
    slots: int


@dataclass(frozen=True)
class Block:
    """`stage` will not run in this run."""

    stage: PlannedStage
    why: str


def decide(plan: Plan, states: Mapping[str, State], *, free: Capacity) -> Iterator[Start | Block]:
    """What to do now. A stage starts as soon as what it needs is finished and its resources are free."""
    for planned in plan.stages:
        if states[planned.name] is not State.WAITING:
            continue
        broken = [name for name in planned.stage.needs if states[name] in (State.FAILED, State.BLOCKED)]
        if broken:
            yield Block(planned, f"it needs {', '.join(broken)}")
            continue
        if not all(states[name].is_final for name in planned.stage.needs):
            continue
        slots = _slots(planned, free)
        if slots:
            capacity = group_capacity(planned.stage.resources) * slots
            free -= capacity
            yield Start(planned, capacity, slots)


def worker_capacity(resources: Resources) -> Capacity:
    return Capacity(resources.cpus_per_worker, resources.gpus_per_worker)


def group_capacity(resources: Resources) -> Capacity:
    """What one group of workers takes: a stage's, or one trial's."""
    return worker_capacity(resources) * resources.workers


def _slots(planned: PlannedStage, free: Capacity) -> int:
    """How many groups of workers of the stage fit now, up to what it can use: 1, or a search's trials."""
    params = planned.stage.params
    wanted = min(params.num_trials, params.max_concurrent or params.num_trials) if isinstance(params, TuneParams) else 1
    group = group_capacity(planned.stage.resources)
    while wanted and not group * wanted <= free:
        wanted -= 1
    return wanted


def shortfall(stage: PlannedStage, machines: tuple[Capacity, ...]) -> str | None:
    """Why the cluster can never hold one group of the stage's workers, or None when it can."""
    worker, num_workers = worker_capacity(stage.stage.resources), stage.stage.resources.workers
    places = sum(_places(worker, machine, num_workers) for machine in machines)
    if places >= num_workers:
        return None
    there = "; ".join(str(machine) for machine in machines) or "no machine"
    return (
        f"{stage.name}: asks for {num_workers} workers with {worker} each, and the cluster has {there}: "
        f"{places} of them fit; lower stages.{stage.name}.resources or use a larger cluster"
    )


def _places(worker: Capacity, machine: Capacity, most: int) -> int:
    return max(count for count in range(most + 1) if worker * count <= machine)
