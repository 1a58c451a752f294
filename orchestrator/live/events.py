"""The newest events of a run, from its batches in the store."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from orchestrator.store.protocol import Store

NUM_EVENTS = 20
LIST_AFTER = 30
"""Looks in a row without a new batch after which the batches are listed again. Earlier versions
left a gap in the numbers for each write that failed."""


@dataclass(frozen=True)
class SeenEvent:
    """An event as the page lists it."""

    stage: str
    trial: str | None
    time_s: float
    """Seconds since the epoch."""
    text: str


@dataclass
class EventFeed:
    """The last NUM_EVENTS events of one run. Batches are numbered, so that a look asks only for the
    next one: listing 100,000 batches takes 100 requests to S3."""

    store: Store
    _run_id: str | None = None
    _newest: int = 0
    """The number of the newest batch that was read."""
    _num_vain: int = 0
    """Looks in a row without a new batch."""
    _events: deque[SeenEvent] = field(default_factory=lambda: deque(maxlen=NUM_EVENTS))

    def read(self, run_id: str) -> tuple[SeenEvent, ...]:
        """Return the newest events of the run, newest first. Raises StoreError."""
        if run_id != self._run_id or self._num_vain >= LIST_AFTER:
            self._begin(run_id)
        self._num_vain += 1
        while (batch := self.store.read(_batch_name(run_id, self._newest + 1))) is not None:
            self._newest += 1
            self._num_vain = 0
            self._events.extend(_last_events(batch))
        return tuple(reversed(self._events))

    def _begin(self, run_id: str) -> None:
        """Read the last batches of a run, back to NUM_EVENTS events."""
        batches = self.store.names(f"runs/{run_id}/events")
        found: list[SeenEvent] = []
        for name in reversed(batches):
            found[:0] = _last_events(self.store.read(name) or b"")
            if len(found) >= NUM_EVENTS:
                break
        self._events.clear()
        self._events.extend(found)
        numbers = [PurePosixPath(name).stem for name in batches]
        self._newest = max((int(number) for number in numbers if number.isdecimal()), default=0)
        self._num_vain = 0
        self._run_id = run_id


def _batch_name(run_id: str, number: int) -> str:
    return f"runs/{run_id}/events/{number:06d}.jsonl"


def _last_events(batch: bytes) -> list[SeenEvent]:
    return list(_intact(batch.splitlines()[-NUM_EVENTS:]))


def _intact(lines: Iterable[bytes]) -> Iterator[SeenEvent]:
    """Yield the events without damaged ones, which the report's remarks name."""
    for line in lines:
        try:
            seen = json.loads(line)
            yield SeenEvent(
                stage=str(seen["stage"]),
                trial=seen.get("trial"),
                time_s=float(seen["time_s"]),
                text=str(seen["event"]["text"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
