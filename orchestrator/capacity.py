"""CPUs, GPUs and memory: what machines have, what stages request, and how many groups of workers
fit. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.plan import PlannedStage
from orchestrator.spec import Resources, Stage


@dataclass(frozen=True)
class Capacity:
    """CPUs, GPUs and memory of a machine, a cluster or a request."""

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
    """The total or free capacity of a machine in the cluster, and its labels."""

    capacity: Capacity
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.capacity)


def lacking(wanted: Capacity, free: Capacity) -> str | None:
    """Return what is wanted but not free, such as `8 GPUs, 4 free`, or None."""
    amounts = (
        (wanted.gpus, free.gpus, "GPU", "GPUs"),
        (wanted.cpus, free.cpus, "CPU", "CPUs"),
        (wanted.memory_gib, free.memory_gib, "GiB", "GiB"),
    )
    lacks = [
        f"{want:.3g} {one if want == 1 else many}, {max(0.0, left):.3g} free"
        for want, left, one, many in amounts
        if want > left
    ]
    return "; ".join(lacks) or None


def total_of(machines: Iterable[Machine]) -> Capacity:
    return sum((machine.capacity for machine in machines), Capacity(0, 0))


def worker_capacity(resources: Resources) -> Capacity:
    return Capacity(
        resources.cpus_per_worker, resources.gpus_per_worker, resources.memory_gib_per_worker
    )


def group_capacity(stage: Stage) -> Capacity:
    """The capacity of the smallest group of workers, for a stage or for one trial."""
    return worker_capacity(stage.resources) * stage.worker_counts[0]


def choose_workers(counts: Sequence[int], worker: Capacity, *, slots: int, free: Capacity) -> int:
    """Return the largest number in `counts` that fits in `slots` and in `free`, the capacity that
    no other stage has reserved.

    Returns at least the first number: that much was free when the stage began.
    """
    fitting = [count for count in counts if count <= slots and worker * count <= free]
    return max(fitting, default=counts[0])


def shortfall(stage: PlannedStage, machines: tuple[Machine, ...]) -> str | None:
    """Explain why the cluster can never run the smallest group of the stage's workers, or return
    None."""
    missing = missing_room(
        stage.stage.resources, machines, num_workers=stage.stage.worker_counts[0]
    )
    if missing is None:
        return None
    return f"{stage.name}: {missing}; reduce stages.{stage.name}.resources or use a larger cluster"


def missing_room(
    resources: Resources, machines: tuple[Machine, ...], *, num_workers: int
) -> str | None:
    """Explain why `machines` cannot run a group of `num_workers` workers now, or return None."""
    worker, slots = worker_capacity(resources), worker_slots(resources, machines, most=num_workers)
    if slots >= num_workers:
        return None
    there = (
        "; ".join(str(machine) for machine in _fitting(resources, machines)) or "no such machine"
    )
    least = "at least " if len(resources.worker_range) > 1 else ""
    labelled = f" on machines labelled {dict(resources.labels)}" if resources.labels else ""
    return (
        f"needs {least}{num_workers} workers with {worker} each{labelled}, but the cluster has "
        f"{there}, where {slots} of them fit"
    )


def worker_slots(resources: Resources, machines: tuple[Machine, ...], *, most: int) -> int:
    """The number of workers that fit on `machines` now, counting at most `most` on each."""
    worker = worker_capacity(resources)
    return sum(
        _slots_of(worker, machine.capacity, most) for machine in _fitting(resources, machines)
    )


def groups_for(
    resources: Resources, machines: tuple[Machine, ...], *, workers: int, most: int
) -> int:
    """The number of groups of `workers` workers that fit on `machines` at a time, from 1 to `most`.

    A worker must fit on one machine. The rests on different machines cannot be added up to another
    group: it would wait forever for its last worker.
    """
    return max(1, min(most, worker_slots(resources, machines, most=workers * most) // workers))


def _fitting(resources: Resources, machines: tuple[Machine, ...]) -> list[Machine]:
    return [machine for machine in machines if resources.labels.items() <= machine.labels.items()]


def _slots_of(worker: Capacity, machine: Capacity, most: int) -> int:
    return max(count for count in range(most + 1) if worker * count <= machine)
