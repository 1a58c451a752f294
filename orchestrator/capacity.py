"""CPUs, GPUs and memory: what machines have, what stages ask for, and how many groups of workers
fit. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.plan import PlannedStage
from orchestrator.spec import Resources, Stage


@dataclass(frozen=True)
class Capacity:
    """CPUs, GPUs and memory: of a machine, of a cluster, or asked for."""

    cpus: float
    gpus: float
    memory_gib: float = 0

    def __add__(self, other: Capacity) -> Capacity:
        return Capacity(
            self.cpus + other.cpus, self.gpus + other.gpus, self.memory_gib + other.memory_gib
        )

    def __sub__(self, other: Capacity) -> Capacity:
        return self + other * -1

    def __mul__(self, count: int) -> Capacity:
        return Capacity(self.cpus * count, self.gpus * count, self.memory_gib * count)

    def __le__(self, other: Capacity) -> bool:
        return (
            self.cpus <= other.cpus
            and self.gpus <= other.gpus
            and self.memory_gib <= other.memory_gib
        )

    def __str__(self) -> str:
        more = (
            f"{self.gpus:g} GPUs" if self.gpus else "",
            f"{self.memory_gib:.3g} GiB" if self.memory_gib else "",
        )
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


def worker_capacity(resources: Resources) -> Capacity:
    return Capacity(
        resources.cpus_per_worker, resources.gpus_per_worker, resources.memory_gib_per_worker
    )


def group_capacity(stage: Stage) -> Capacity:
    """What the smallest group of workers takes: the stage's, or one trial's."""
    return worker_capacity(stage.resources) * stage.worker_counts[0]


def choose_workers(counts: Sequence[int], worker: Capacity, *, slots: int, free: Capacity) -> int:
    """The most workers of `counts` that machines have `slots` for, on capacity that no other stage
    counts on.

    At least the first of them: that much was free when the stage began.
    """
    fitting = [count for count in counts if count <= slots and worker * count <= free]
    return max(fitting, default=counts[0])


def shortfall(stage: PlannedStage, machines: tuple[Machine, ...]) -> str | None:
    """Why the cluster can never hold the smallest group of the stage's workers, or None when it
    can."""
    missing = missing_room(
        stage.stage.resources, machines, num_workers=stage.stage.worker_counts[0]
    )
    if missing is None:
        return None
    return f"{stage.name}: {missing}; lower stages.{stage.name}.resources or use a larger cluster"


def missing_room(
    resources: Resources, machines: tuple[Machine, ...], *, num_workers: int
) -> str | None:
    """Why `machines` cannot hold a group of `num_workers` workers now, or None when they can."""
    worker, slots = worker_capacity(resources), worker_slots(resources, machines, most=num_workers)
    if slots >= num_workers:
        return None
    there = (
        "; ".join(str(machine) for machine in _fitting(resources, machines)) or "no such machine"
    )
    least = "at least " if len(resources.worker_range) > 1 else ""
    labelled = f" on machines labelled {dict(resources.labels)}" if resources.labels else ""
    return (
        f"asks for {least}{num_workers} workers with {worker} each{labelled}, and the cluster has "
        f"{there}: {slots} of them fit"
    )


def worker_slots(resources: Resources, machines: tuple[Machine, ...], *, most: int) -> int:
    """How many workers `machines` hold now; not counted beyond `most` on each."""
    worker = worker_capacity(resources)
    return sum(
        _slots_of(worker, machine.capacity, most) for machine in _fitting(resources, machines)
    )


def groups_for(
    resources: Resources, machines: tuple[Machine, ...], *, workers: int, most: int
) -> int:
    """How many groups of `workers` workers `machines` hold at a time, between 1 and `most`: a
    worker has one machine.

    What is left over on each of them adds up to no further group, which would wait in vain for its
    last worker.
    """
    return max(1, min(most, worker_slots(resources, machines, most=workers * most) // workers))


def _fitting(resources: Resources, machines: tuple[Machine, ...]) -> list[Machine]:
    return [machine for machine in machines if resources.labels.items() <= machine.labels.items()]


def _slots_of(worker: Capacity, machine: Capacity, most: int) -> int:
    return max(count for count in range(most + 1) if worker * count <= machine)
