"""Room for a stage's workers: what this run's stages count on, and what the cluster, which others
use too, has free."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.capacity import (
    Capacity,
    choose_workers,
    missing_room,
    total_of,
    worker_capacity,
    worker_slots,
)
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.connection import all_machines, free_machines
from orchestrator.cluster.events import EventChannel
from orchestrator.contract import Event
from orchestrator.errors import ClusterError, StoppedError
from orchestrator.spec import Resources

CHECK_INTERVAL_S = 1.0
REPORT_AFTER_S = 1.5
"""What a lost group held comes free in that time and needs no report."""
REPORT_INTERVAL_S = 60.0
LEDGER_SETTLE_S = 5.0
"""A stage that can use more workers than there is room for looks again for so long: what a group
that just ended held comes free within a second or two."""


class Ledger:
    """What each running stage of the run holds of the cluster, so that no two count on the same.
    Safe for threads."""

    def __init__(self, total: Capacity) -> None:
        self._total = total
        self._held: dict[str, Capacity] = {}
        self._lock = threading.Lock()

    @property
    def free(self) -> Capacity:
        with self._lock:
            return self._total - sum(self._held.values(), Capacity(0, 0))

    def take(self, stage: str, capacity: Capacity) -> None:
        with self._lock:
            self._held[stage] = capacity

    def release(self, stage: str) -> None:
        with self._lock:
            self._held.pop(stage, None)

    def resize(
        self, stage: str, counts: Sequence[int], worker: Capacity, *, slots: int, total: Capacity
    ) -> int:
        """Make what `stage` holds the most workers of `counts` that fit now; returns their number.

        `total` is all that the cluster has now: machines come and go.
        """
        with self._lock:
            others = sum(
                (held for name, held in self._held.items() if name != stage), Capacity(0, 0)
            )
            chosen = choose_workers(counts, worker, slots=slots, free=total - others)
            self._held[stage] = worker * chosen
            return chosen


@dataclass(frozen=True)
class Room:
    """Where the groups of one stage find room."""

    stage: str
    resources: Resources
    counts: tuple[int, ...]
    """How many workers a group may have, ascending."""
    ledger: Ledger
    channel: EventChannel

    def take(self, attempt: Attempt) -> int:
        """Wait until the cluster has room for the smallest group, then take the largest that there
        is room for.

        Ray itself would wait for ever, and say nothing. Returns the number of workers. Raises
        ClusterError after `resources.max_wait_min`, StoppedError when the run is interrupted
        meanwhile.
        """
        self._await_least(attempt)
        if len(self.counts) == 1:
            return self.counts[0]
        deadline_s = time.monotonic() + LEDGER_SETTLE_S
        while (chosen := self._resize()) < self.counts[-1] and time.monotonic() < deadline_s:
            time.sleep(CHECK_INTERVAL_S)
        return chosen

    def _resize(self) -> int:
        slots = worker_slots(self.resources, free_machines(), most=self.counts[-1])
        worker, total = worker_capacity(self.resources), total_of(all_machines())
        return self.ledger.resize(self.stage, self.counts, worker, slots=slots, total=total)

    def _await_least(self, attempt: Attempt) -> None:
        start_s = time.monotonic()
        reported_s = start_s + REPORT_AFTER_S - REPORT_INTERVAL_S
        while (
            missing := missing_room(self.resources, free_machines(), num_workers=self.counts[0])
        ) is not None:
            now_s = time.monotonic()
            # Before the deadline ends the wait: an actor that is slow to start may make this the
            # second look.
            if now_s - reported_s > REPORT_INTERVAL_S:
                self.channel.send(attempt.says(Event(f"waiting for room: {missing} now")))
                reported_s = now_s
            if now_s - start_s > self.resources.max_wait_min * 60:
                raise ClusterError(
                    f"waited {self.resources.max_wait_min:g} minutes for room: {missing} now; run "
                    f"the same command again later, or change stages.{attempt.stage}.resources "
                    "(max_wait_min is among them)"
                )
            if self.channel.is_stopping():
                raise StoppedError("stopped while it waited for room")
            time.sleep(CHECK_INTERVAL_S)
