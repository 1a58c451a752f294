"""Which of several runs on one cluster starts its next group of workers. Pure.

Ray itself starts whatever fits first, so a large group would wait as long as small ones arrive.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.capacity import NOTHING, Capacity, Machine, total_of, worker_capacity
from orchestrator.fleet import Placement, Vacancies, missing_room, place, using
from orchestrator.spec import Resources

OVERDUE_PART = 0.25
"""The part of `max_wait_min` after which machines are kept for a group."""
FORGET_REQUEST_S = 60.0
"""A waiting driver asks every second, or when Ray has answered. After this time without a question
it has ended."""
FORGET_RUN_S = 40.0
"""A run reports itself every 10 s. After this time without a report, only what Ray shows as used
counts. A run that resumes the work of a killed run waits at most this long."""


def patience_s(resources: Resources) -> float:
    """How long a group waits until machines are kept for it."""
    return resources.max_wait_min * 60 * OVERDUE_PART


class Asker(NamedTuple):
    """A stage of a run."""

    run_id: str
    stage: str


@dataclass(frozen=True)
class Request:
    """A group of workers that a run wants to start."""

    asker: Asker
    resources: Resources
    counts: tuple[int, ...]
    """The allowed numbers of workers, ascending."""
    length_s: float
    """The time to the end of the last stage that needs this one; longer ones go first in a run."""
    reserved: Mapping[str, Capacity]
    """By machine, what other stages of the run are about to use. A group grows only into the
    rest."""
    avoids_gpus: bool = True
    """Whether workers without GPUs stay off machines with GPUs where others are large enough."""
    num_groups: int = 1
    """The number of groups that a search runs at a time. It asks only for its first trial: Ray
    starts the others as soon as they fit, on any machine."""


@dataclass
class _Waiting:
    request: Request
    since_s: float
    seen_s: float

    def is_overdue(self, now_s: float) -> bool:
        return now_s - self.since_s >= patience_s(self.request.resources)


class _Held(NamedTuple):
    """What a group of workers uses from the moment in which it may start."""

    placement: Placement
    """Empty for a search, whose trials Ray places."""
    total: Capacity
    worker: Capacity
    since_s: float
    """When the stage first asked for it."""


@dataclass
class Admission:
    """Admits groups of workers of all runs on a cluster, one after the other.

    A group that is overdue goes first, in the order of the first questions, and machines are kept
    for it. Otherwise the run that uses the smallest part of the cluster goes first. So two runs get
    equal parts, and two groups that need the same machines never wait for each other.
    """

    clock: Callable[[], float] = time.monotonic
    """In seconds."""
    _waiting: dict[Asker, _Waiting] = field(default_factory=dict)
    _held: dict[Asker, _Held] = field(default_factory=dict)
    _heard_s: dict[str, float] = field(default_factory=dict)
    """By run."""

    def ask(self, request: Request, machines: Sequence[Machine]) -> Placement | str:
        """Return where the group may start now, or why it has to wait.

        `machines` are the machines with what Ray shows as used. A driver asks again every second.
        """
        now_s = self.clock()
        self._note(request, now_s)
        vacancies = Vacancies(self._busy(machines))
        placements, kept = self._serve(vacancies, machines, now_s)
        placement = placements.get(request.asker)
        if placement is None:
            return self._reason(request, vacancies.machines, kept)
        placement = _grown(request, placement, vacancies)
        since_s = self._waiting.pop(request.asker).since_s
        worker, is_search = worker_capacity(request.resources), request.num_groups > 1
        total = worker * sum(placement.values()) * request.num_groups
        held = {} if is_search else placement
        self._held[request.asker] = _Held(held, total, worker, since_s)
        return placement

    def withdraw(self, asker: Asker) -> None:
        """Forget a stage: its group has ended, or it no longer waits."""
        self._waiting.pop(asker, None)
        self._held.pop(asker, None)

    def report(self, run_id: str) -> None:
        """Note that a run still exists, so that what it holds counts."""
        self._heard_s[run_id] = self.clock()

    def leave(self, run_id: str) -> None:
        """Forget a run, which has ended."""
        for asker in {*self._waiting, *self._held}:
            if asker.run_id == run_id:
                self.withdraw(asker)
        self._heard_s.pop(run_id, None)

    def _note(self, request: Request, now_s: float) -> None:
        """Note the question, and forget runs that no longer exist."""
        self.report(request.asker.run_id)
        before = self._held.pop(request.asker, None) or self._waiting.get(request.asker)
        since_s = now_s if before is None else before.since_s
        self._waiting[request.asker] = _Waiting(request, since_s, now_s)
        for asker, waiting in tuple(self._waiting.items()):
            if now_s - waiting.seen_s > FORGET_REQUEST_S:
                del self._waiting[asker]
        for run_id, heard_s in tuple(self._heard_s.items()):
            if now_s - heard_s > FORGET_RUN_S:
                self.leave(run_id)

    def _busy(self, machines: Iterable[Machine]) -> tuple[Machine, ...]:
        """The machines with what Ray shows as used, and with groups that have not started yet."""
        held: dict[str, Capacity] = defaultdict(lambda: NOTHING)
        for group in self._held.values():
            for name, count in group.placement.items():
                held[name] += group.worker * count
        return tuple(
            machine.using(machine.used.largest(held[machine.name]) - machine.used)
            for machine in machines
        )

    def _serve(
        self, vacancies: Vacancies, machines: Sequence[Machine], now_s: float
    ) -> tuple[dict[Asker, Placement], list[Asker]]:
        """Place the groups in their order. Returns the placements, and the groups for which
        machines are kept."""
        whole = total_of(machine.capacity for machine in machines)
        shares: dict[str, float] = defaultdict(float)
        for asker, group in self._held.items():
            shares[asker.run_id] += _share(group.total, whole)
        placements: dict[Asker, Placement] = {}
        kept: list[Asker] = []
        left = list(self._waiting.values())
        while left:
            waiting = min(left, key=lambda one: _rank(one, shares, now_s))
            left.remove(waiting)
            asker, resources = waiting.request.asker, waiting.request.resources
            least = waiting.request.counts[0]
            placement = vacancies.take(
                resources, num_workers=least, avoids_gpus=waiting.request.avoids_gpus
            )
            if placement is not None:
                placements[asker] = placement
                shares[asker.run_id] += _share(worker_capacity(resources) * least, whole)
            elif waiting.is_overdue(now_s):
                vacancies.claim(resources, num_workers=least)
                kept.append(asker)
        return placements, kept

    def _reason(self, request: Request, machines: Sequence[Machine], kept: list[Asker]) -> str:
        missing = missing_room(request.resources, machines, num_workers=request.counts[0])
        if missing is not None:
            return f"{missing} now"
        ahead = [asker for asker in kept if asker != request.asker]
        return f"behind {', '.join(f'{one.stage} of run {one.run_id}' for one in ahead)}"


def _rank(waiting: _Waiting, shares: Mapping[str, float], now_s: float) -> tuple[float, ...]:
    """The order of waiting groups: smallest first."""
    if waiting.is_overdue(now_s):
        return (0, waiting.since_s)
    request = waiting.request
    return (1, shares[request.asker.run_id], -request.length_s, waiting.since_s)


def _share(used: Capacity, whole: Capacity) -> float:
    """The part of the cluster's scarcest resource that is used."""
    parts = ((used.gpus, whole.gpus), (used.cpus, whole.cpus), (used.memory_gib, whole.memory_gib))
    return max((part / total for part, total in parts if total), default=0.0)


def _grown(request: Request, least: Placement, vacancies: Vacancies) -> Placement:
    """Return the placement of the largest group that fits next to all others."""
    worker, resources = worker_capacity(request.resources), request.resources
    free = using(vacancies.unclaimed(), least, worker * -1)
    free = tuple(machine.using(request.reserved.get(machine.name, NOTHING)) for machine in free)
    for count in reversed(request.counts[1:]):
        placement = place(
            resources,
            free,
            num_workers=count,
            least=request.counts[0],
            avoids_gpus=request.avoids_gpus,
        )
        if placement is not None:
            return placement
    return least
