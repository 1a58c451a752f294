"""Which stage starts next, on what: decisions as values, a pure function of the plan and the states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.plan import Plan, PlannedStage
from orchestrator.spec import Resources, Stage, TuneParams


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
    """CPUs, GPUs and memory: of a machine, of a cluster, or asked for."""

    cpus: float
    gpus: float
    memory_gib: float = 0

    def __add__(self, other: Capacity) -> Capacity:
        return Capacity(self.cpus + other.cpus, self.gpus + other.gpus, self.memory_gib + other.memory_gib)

    def __sub__(self, other: Capacity) -> Capacity:
        return self + other * -1

    def __mul__(self, count: int) -> Capacity:
        return Capacity(self.cpus * count, self.gpus * count, self.memory_gib * count)

    def __le__(self, other: Capacity) -> bool:
        return self.cpus <= other.cpus and self.gpus <= other.gpus and self.memory_gib <= other.memory_gib

    def __str__(self) -> str:
        more = (f"{self.gpus:g} GPUs" if self.gpus else "", f"{self.memory_gib:.3g} GiB" if self.memory_gib else "")
        return ", ".join([f"{self.cpus:g} CPUs", *filter(None, more)])


@dataclass(frozen=True)
class Machine:
    """What a machine of the cluster has, or has free, and how it is labelled."""

    capacity: Capacity
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.capacity)


def total_of(machines: Iterable[Machine]) -> Capacity:
    return sum((machine.capacity for machine in machines), Capacity(0, 0))


@dataclass(frozen=True)
class Start:
    """Begin `stage`, which takes `capacity` to begin with. `slots`: how many trials at a time, for a search."""

    stage: PlannedStage
    capacity: Capacity
    slots: int


@dataclass(frozen=True)
class Block:
    """`stage` will not run in this run."""

    stage: PlannedStage
    why: str


def decide(plan: Plan, states: Mapping[str, State], *, free: Capacity) -> Iterator[Start | Block]:
    """What to do now. A stage starts as soon as what it needs is finished and the least that it asks for is free.

    Where it can use more, it takes that when its group starts (`choose_workers`): first all stages that can, begin.
    """
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
            capacity = group_capacity(planned.stage) * slots
            free -= capacity
            yield Start(planned, capacity, slots)


def worker_capacity(resources: Resources) -> Capacity:
    return Capacity(resources.cpus_per_worker, resources.gpus_per_worker, resources.memory_gib_per_worker)


def group_capacity(stage: Stage) -> Capacity:
    """What the smallest group of workers takes: the stage's, or one trial's."""
    return worker_capacity(stage.resources) * stage.worker_counts[0]


def choose_workers(counts: Sequence[int], worker: Capacity, *, places: int, free: Capacity) -> int:
    """The most workers of `counts` for which machines have `places` and no other stage counts on the capacity.

    At least the first of them: that much was free when the stage began.
    """
    fitting = [count for count in counts if count <= places and worker * count <= free]
    return max(fitting, default=counts[0])


def _slots(planned: PlannedStage, free: Capacity) -> int:
    """How many groups of workers of the stage fit now, up to what it can use: 1, or a search's trials."""
    params = planned.stage.params
    wanted = _wanted_trials(params) if isinstance(params, TuneParams) else 1
    group = group_capacity(planned.stage)
    while wanted and not group * wanted <= free:
        wanted -= 1
    return wanted


def _wanted_trials(params: TuneParams) -> int:
    return params.size if params.max_concurrent == "auto" else min(params.size, params.max_concurrent)


def shortfall(stage: PlannedStage, machines: tuple[Machine, ...]) -> str | None:
    """Why the cluster can never hold the smallest group of the stage's workers, or None when it can."""
    missing = missing_room(stage.stage.resources, machines, num_workers=stage.stage.worker_counts[0])
    if missing is None:
        return None
    return f"{stage.name}: {missing}; lower stages.{stage.name}.resources or use a larger cluster"


def missing_room(resources: Resources, machines: tuple[Machine, ...], *, num_workers: int) -> str | None:
    """Why `machines` cannot hold a group of `num_workers` workers now, or None when they can."""
    worker, places = worker_capacity(resources), places_for(resources, machines, most=num_workers)
    if places >= num_workers:
        return None
    there = "; ".join(str(machine) for machine in _fitting(resources, machines)) or "no such machine"
    least = "at least " if len(resources.worker_range) > 1 else ""
    labelled = f" on machines labelled {dict(resources.labels)}" if resources.labels else ""
    return (
        f"asks for {least}{num_workers} workers with {worker} each{labelled}, and the cluster has {there}: "
        f"{places} of them fit"
    )


def places_for(resources: Resources, machines: tuple[Machine, ...], *, most: int) -> int:
    """How many workers `machines` hold now; not counted beyond `most` on each."""
    worker = worker_capacity(resources)
    return sum(_places(worker, machine.capacity, most) for machine in _fitting(resources, machines))


def _fitting(resources: Resources, machines: tuple[Machine, ...]) -> list[Machine]:
    return [machine for machine in machines if resources.labels.items() <= machine.labels.items()]


def _places(worker: Capacity, machine: Capacity, most: int) -> int:
    return max(count for count in range(most + 1) if worker * count <= machine)
