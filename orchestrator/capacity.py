"""CPUs, GPUs and memory: what machines have and what stages request. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.numbers import count_text
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

    def __str__(self) -> str:
        more = (
            count_text(self.gpus, "GPU") if self.gpus else "",
            f"{self.memory_gib:.3g} GiB" if self.memory_gib else "",
        )
        return ", ".join([count_text(self.cpus, "CPU"), *filter(None, more)])

    def slots(self, worker: Capacity) -> int:
        """The number of workers of this size that fit, at least 0."""
        amounts = ((self.cpus, worker.cpus), (self.memory_gib, worker.memory_gib))
        fits = [_times(have, want) for have, want in amounts if want]
        if worker.gpus:
            fits.append(_gpu_slots(self.gpus, worker.gpus))
        return max(0, min(fits, default=0))

    def largest(self, other: Capacity) -> Capacity:
        """The larger of both in each resource."""
        return Capacity(
            max(self.cpus, other.cpus),
            max(self.gpus, other.gpus),
            max(self.memory_gib, other.memory_gib),
        )


def _gpu_slots(free: float, wanted: float) -> int:
    """Workers that share a GPU must each fit on one: of 0.6, one fits on each of two GPUs."""
    if wanted >= 1:
        return _times(free, wanted)
    whole = _times(free, 1)
    return whole * _times(1, wanted) + _times(free - whole, wanted)


def _times(have: float, want: float) -> int:
    # Ray counts in 1/10,000, and 0.3 // 0.1 is 2.
    return int((have + 1e-6) // want)


NOTHING = Capacity(0, 0)


@dataclass(frozen=True)
class Machine:
    """A machine of the cluster: what it has, what of it is used, and its labels."""

    capacity: Capacity
    labels: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    """Ray's id of the machine."""
    used: Capacity = NOTHING

    @property
    def free(self) -> Capacity:
        """Negative where more is reserved than the machine has."""
        return self.capacity - self.used

    def using(self, amount: Capacity) -> Machine:
        """The machine with `amount` used in addition."""
        return replace(self, used=self.used + amount)


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


def total_of(amounts: Iterable[Capacity]) -> Capacity:
    return sum(amounts, NOTHING)


def worker_capacity(resources: Resources) -> Capacity:
    return Capacity(
        resources.cpus_per_worker, resources.gpus_per_worker, resources.memory_gib_per_worker
    )


def group_capacity(stage: Stage) -> Capacity:
    """The capacity of the smallest group of workers, for a stage or for one trial."""
    return worker_capacity(stage.resources) * stage.worker_counts[0]
