"""Find resources for a stage's workers: what this run's stages have reserved, and what is free on
the cluster, which others may use too."""

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
"""The resources of a lost group become free within this time, so a shorter wait is not reported."""
REPORT_INTERVAL_S = 60.0
LEDGER_SETTLE_S = 5.0
"""How long a stage with a range of workers waits for its maximum. The resources of a group that has
just ended become free within a second or two."""


class Ledger:
    """The resources that each running stage of the run has reserved, so that no two stages use the
    same. Thread-safe."""

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
        """Reserve for `stage` the largest number of workers in `counts` that fits now; return it.

        `total` is what the cluster has now, because machines join and leave.
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
    """Finds resources for the worker groups of one stage."""

    stage: str
    resources: Resources
    counts: tuple[int, ...]
    """The allowed numbers of workers in a group, ascending."""
    ledger: Ledger
    channel: EventChannel

    def take(self, attempt: Attempt) -> int:
        """Wait until the smallest group fits on the cluster, then reserve the largest that fits.

        Returns the number of workers. Ray itself would wait forever without a message. Raises
        ClusterError after `resources.max_wait_min`, or StoppedError if the
        stage is asked to stop.
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
            # Report before the deadline check: if an actor starts slowly, this may already be the
            # second check.
            if now_s - reported_s > REPORT_INTERVAL_S:
                event = Event(f"waiting for resources: {missing} now")
                self.channel.send(attempt.says(event, waits_for=missing))
                reported_s = now_s
            if now_s - start_s > self.resources.max_wait_min * 60:
                raise ClusterError(
                    f"waited {self.resources.max_wait_min:g} minutes for resources: {missing} now; "
                    "run the same command again later, or change "
                    f"stages.{attempt.stage}.resources (its max_wait_min is this limit)"
                )
            if self.channel.is_stopping(attempt.stage):
                raise StoppedError("stopped while waiting for resources")
            time.sleep(CHECK_INTERVAL_S)
