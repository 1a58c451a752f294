"""Wait until a stage's workers may start on a cluster that other stages, runs and users use too."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.capacity import Machine, worker_capacity
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.autoscaler import Answer, GroupRequest, asked_for
from orchestrator.cluster.connection import MACHINE_LABEL, all_machines
from orchestrator.cluster.events import EventChannel
from orchestrator.cluster.ledger import Ledger
from orchestrator.contract import Event
from orchestrator.errors import ClusterError, StoppedError
from orchestrator.fleet import Placement, usable_machines
from orchestrator.spec import Resources

CHECK_INTERVAL_S = 1.0
REPORT_AFTER_S = 1.5
"""The resources of a lost group become free within this time, so a shorter wait is not reported."""
REPORT_INTERVAL_S = 60.0
ANSWER_AFTER_S = 10.0
"""The autoscaler looks every five seconds."""
SETTLE_S = 5.0
"""How long a stage with a range of workers waits for its maximum. The resources of a group that has
just ended become free within a second or two."""


@dataclass(frozen=True)
class Room:
    """Finds machines for the worker groups of one stage."""

    stage: str
    resources: Resources
    counts: tuple[int, ...]
    """The allowed numbers of workers in a group, ascending."""
    ledger: Ledger
    channel: EventChannel
    length_s: float = 0
    """The time to the end of the last stage that needs this one."""
    num_groups: int = 1
    """The number of trials at a time of a search."""

    def take(self, attempt: Attempt) -> Placement:
        """Wait until the smallest group may start, then reserve the largest that fits.

        Ray itself would wait forever without a message. Raises ClusterError after
        `resources.max_wait_min`, or StoppedError if the stage is asked to stop.
        """
        placement, avoids_gpus = self._await_least(attempt)
        deadline_s = time.monotonic() + SETTLE_S
        while sum(placement.values()) < self.counts[-1] and time.monotonic() < deadline_s:
            time.sleep(CHECK_INTERVAL_S)
            answer = self._ask(avoids_gpus=avoids_gpus)
            if isinstance(answer, str):
                placement, avoids_gpus = self._await_least(attempt)
            else:
                placement = answer
        return placement

    def _ask(self, *, avoids_gpus: bool) -> Placement | str:
        return self.ledger.ask(
            self.stage,
            self.resources,
            self.counts,
            length_s=self.length_s,
            num_groups=self.num_groups,
            avoids_gpus=avoids_gpus,
        )

    def _await_least(self, attempt: Attempt) -> tuple[Placement, bool]:
        """Return the machines of the smallest group, and whether it avoided those with GPUs."""
        with self._growth() as growth:
            wait = _Wait(self, attempt, growth, time.monotonic())
            # A machine that the autoscaler started for this group may be one with GPUs.
            while isinstance(answer := self._ask(avoids_gpus=not wait.was_placed), str):
                wait.go_on(answer)
        return answer, not wait.was_placed

    @contextmanager
    def _growth(self) -> Iterator[GroupRequest | None]:
        """Yield a request to the autoscaler if there is one."""
        if not self.ledger.can_grow:
            yield None
            return
        labels = roaming_selector(self.resources, all_machines(), num_workers=self.counts[0])
        worker = worker_capacity(self.resources)
        with asked_for(worker, num_workers=self.counts[0], labels=labels) as request:
            yield request


@dataclass
class _Wait:
    """The wait of a stage for its smallest group: reports, and ends by an error."""

    room: Room
    attempt: Attempt
    growth: GroupRequest | None
    began_s: float
    waited_s: float = 0
    was_placed: bool = False
    """Whether Ray once had room for the group while it asked the autoscaler."""
    _reported: tuple[float, Answer | None] | None = None
    """When the last report was made, and what the autoscaler answered."""

    def go_on(self, reason: str) -> None:
        """Wait a second for what `reason` describes. Raises ClusterError or StoppedError."""
        now_s, answer = time.monotonic(), self.growth.ask() if self.growth is not None else None
        self.was_placed |= answer is Answer.PLACED
        missing = reason if answer is None else f"{reason}; autoscaler: {answer.value}"
        # Report before the deadline check: if an actor starts slowly, this may already be the
        # second check.
        if self._is_report_due(now_s, answer):
            event = Event(f"waiting for resources: {missing}")
            self.room.channel.send(self.attempt.says(event, waits_for=missing))
            self._reported = now_s, answer
        self._check(missing, answer)
        time.sleep(CHECK_INTERVAL_S)
        if answer is not Answer.FULL or not self.room.ledger.runs_others(self.room.stage):
            self.waited_s += time.monotonic() - now_s

    def _is_report_due(self, now_s: float, answer: Answer | None) -> bool:
        if self._reported is None:
            is_open = answer is Answer.UNKNOWN
            return now_s - self.began_s > (ANSWER_AFTER_S if is_open else REPORT_AFTER_S)
        reported_s, before = self._reported
        is_news = answer not in (before, Answer.PLACED)
        return is_news or now_s - reported_s > REPORT_INTERVAL_S

    def _check(self, missing: str, answer: Answer | None) -> None:
        stage, resources = self.attempt.stage, self.room.resources
        if answer is Answer.IMPOSSIBLE:
            raise ClusterError(
                f"{stage}: {missing}; reduce stages.{stage}.resources or raise the limits of the "
                "cluster"
            )
        if self.waited_s > resources.max_wait_min * 60:
            raise ClusterError(
                f"waited {resources.max_wait_min:g} minutes for resources: {missing}; run the same "
                f"command again later, or change stages.{stage}.resources (its max_wait_min is "
                "this limit)"
            )
        if self.room.channel.is_stopping(stage):
            raise StoppedError("stopped while waiting for resources")


def pinned_selectors(resources: Resources, placement: Placement) -> tuple[Mapping[str, str], ...]:
    """Return a label selector for each worker: Ray then starts it where it was admitted."""
    return tuple(
        {**resources.selector, MACHINE_LABEL: name}
        for name, count in placement.items()
        for _ in range(count)
    )


def roaming_selector(
    resources: Resources, machines: Iterable[Machine], *, num_workers: int
) -> Mapping[str, str]:
    """Return the label selector of workers that Ray may start on any usable machine, also on one
    that joins later. They avoid machines with GPUs only if several others are there: if the only
    other one left, they would wait forever."""
    machines = tuple(machines)
    usable = usable_machines(resources, machines, num_workers=num_workers)
    avoided = [machine.name for machine in machines if machine.capacity.gpus]
    is_plain = not any(machine.capacity.gpus for machine in usable)
    if resources.gpus_per_worker or not avoided or not is_plain or len(usable) == 1:
        return resources.selector
    return {MACHINE_LABEL: f"!in({','.join(avoided)})", **resources.selector}
