"""Which workers fit on which machines of a cluster. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from orchestrator.capacity import Capacity, Machine, worker_capacity
from orchestrator.numbers import count_text
from orchestrator.plan import PlannedStage
from orchestrator.spec import Resources

Placement = Mapping[str, int]
"""The number of workers on each machine, by the machine's name."""


def place(
    resources: Resources,
    machines: Iterable[Machine],
    *,
    num_workers: int,
    least: int | None = None,
    avoids_gpus: bool = True,
) -> Placement | None:
    """Choose machines for a group of workers from what is free now, or return None.

    Workers exchange gradients, so the group gets few machines. Among machines that hold all of it,
    the one with the least room is chosen, which leaves room for larger groups elsewhere.

    `least` is the size of the smallest group that decides which machines are usable.
    """
    worker = worker_capacity(resources)
    usable = usable_machines(
        resources, machines, num_workers=least or num_workers, avoids_gpus=avoids_gpus
    )
    slots = {machine.name: machine.free.slots(worker) for machine in usable}
    if sum(slots.values()) < num_workers:
        return None
    placement: dict[str, int] = {}
    while (left := num_workers - sum(placement.values())) > 0:
        whole = [name for name, count in slots.items() if count >= left]
        name = min(whole, key=slots.__getitem__) if whole else max(slots, key=slots.__getitem__)
        placement[name] = min(left, slots.pop(name))
    return placement


def usable_machines(
    resources: Resources,
    machines: Iterable[Machine],
    *,
    num_workers: int,
    avoids_gpus: bool = True,
) -> list[Machine]:
    """The machines that may run the workers of a group, used or not.

    These are the machines with the labels. Workers without GPUs stay off machines with GPUs if the
    other machines are large enough for the group.
    """
    fitting = [one for one in machines if has_labels(one.labels, resources.selector)]
    if resources.gpus_per_worker or not avoids_gpus:
        return fitting
    worker, plain = worker_capacity(resources), [one for one in fitting if not one.capacity.gpus]
    is_enough = sum(machine.capacity.slots(worker) for machine in plain) >= num_workers
    return plain if is_enough else fitting


def has_labels(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether a machine with `labels` matches Ray's label selector: a value, `!value`, `in(a, b)`
    or `!in(a, b)` for each name."""
    return all(_matches(labels.get(name), wanted) for name, wanted in selector.items())


def _matches(value: str | None, wanted: str) -> bool:
    words = wanted.removeprefix("!").strip()
    is_list = words.startswith("in(") and words.endswith(")")
    allowed = [word.strip() for word in words[3:-1].split(",")] if is_list else [words]
    return (value in allowed) is not wanted.startswith("!")


def idle(machines: Iterable[Machine]) -> tuple[Machine, ...]:
    """The machines without what is used of them."""
    return tuple(replace(machine, used=Capacity(0, 0)) for machine in machines)


def using(
    machines: Iterable[Machine], placement: Placement, worker: Capacity
) -> tuple[Machine, ...]:
    """The machines with the workers of `placement` in addition."""
    return tuple(
        machine.using(worker * placement[machine.name]) if machine.name in placement else machine
        for machine in machines
    )


class Vacancies:
    """What is free while requests are served one after the other."""

    def __init__(self, machines: Iterable[Machine]) -> None:
        self.machines = tuple(machines)
        self._claimed: list[tuple[Placement, Capacity]] = []

    def take(
        self,
        resources: Resources,
        *,
        num_workers: int,
        least: int | None = None,
        avoids_gpus: bool = True,
    ) -> Placement | None:
        """Place a group on what is neither used nor claimed, or return None: see `place`."""
        placement = place(
            resources,
            self.unclaimed(),
            num_workers=num_workers,
            least=least,
            avoids_gpus=avoids_gpus,
        )
        if placement is not None:
            self.machines = using(self.machines, placement, worker_capacity(resources))
        return placement

    def claim(self, resources: Resources, *, num_workers: int) -> None:
        """Keep machines for a group that does not fit yet: what becomes free there is no longer
        given to later requests.

        A group that needs what earlier ones have claimed claims nothing.
        """
        worker = worker_capacity(resources)
        left = idle(self.machines)
        for placement, claimed in self._claimed:
            left = using(left, placement, claimed)
        usable = usable_machines(resources, left, num_workers=num_workers)
        slots = {machine.name: machine.free.slots(worker) for machine in usable}
        if sum(slots.values()) >= num_workers:
            self._claimed.append((self._freest(slots, worker, num_workers), worker))

    def unclaimed(self) -> tuple[Machine, ...]:
        machines = self.machines
        for placement, claimed in self._claimed:
            machines = using(machines, placement, claimed)
        return machines

    def _freest(self, slots: Mapping[str, int], worker: Capacity, num_workers: int) -> Placement:
        """Choose the machines that need to become free the least."""
        free = {machine.name: machine.free.slots(worker) for machine in self.machines}
        placement: dict[str, int] = {}
        for name in sorted(slots, key=lambda name: -min(free[name], slots[name])):
            if (left := num_workers - sum(placement.values())) > 0 and slots[name]:
                placement[name] = min(left, slots[name])
        return placement


def shortfall(stage: PlannedStage, machines: Iterable[Machine]) -> str | None:
    """Explain why the cluster can never run the smallest group of the stage's workers, or return
    None."""
    missing = missing_room(
        stage.stage.resources, idle(machines), num_workers=stage.stage.worker_counts[0]
    )
    if missing is None:
        return None
    return f"{stage.name}: {missing}; reduce stages.{stage.name}.resources or use a larger cluster"


def missing_room(
    resources: Resources, machines: Sequence[Machine], *, num_workers: int
) -> str | None:
    """Explain why `machines` cannot run a group of `num_workers` workers now, or return None."""
    worker = worker_capacity(resources)
    usable = usable_machines(resources, machines, num_workers=num_workers)
    slots = sum(min(num_workers, machine.free.slots(worker)) for machine in usable)
    if slots >= num_workers:
        return None
    free = Counter(_free_text(machine, resources) for machine in usable)
    there = "; ".join(text if count == 1 else f"{count} x ({text})" for text, count in free.items())
    least = "at least " if len(resources.worker_range) > 1 else ""
    labelled = f" on machines labelled {dict(resources.selector)}" if resources.selector else ""
    group = f"{count_text(num_workers, 'worker')} with {worker}{' each' if num_workers > 1 else ''}"
    return (
        f"needs {least}{group}{labelled}, but the cluster has "
        f"{there or 'no such machine'}, where {slots} of them fit"
    )


def _free_text(machine: Machine, resources: Resources) -> str:
    free = machine.free
    is_short = resources.gpus_per_worker and not free.gpus
    return f"{free}, 0 GPUs" if is_short else str(free)


def groups_for(
    resources: Resources, machines: Iterable[Machine], *, workers: int, most: int
) -> int:
    """The number of groups of `workers` workers that fit on idle `machines` at a time, from 1 to
    `most`.

    A worker must fit on one machine. The rests on different machines cannot be added up to another
    group: it would wait forever for its last worker.
    """
    worker = worker_capacity(resources)
    usable = usable_machines(resources, machines, num_workers=workers)
    slots = sum(machine.capacity.slots(worker) for machine in usable)
    return max(1, min(most, slots // workers))
