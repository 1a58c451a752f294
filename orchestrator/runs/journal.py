"""The journal of a running run: writes its record and events to the store. Only the driver writes
it."""

from __future__ import annotations

import getpass
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

from orchestrator.contract import Event
from orchestrator.errors import StoreError
from orchestrator.plan import Plan, PlannedStage
from orchestrator.redaction import redactor
from orchestrator.runs.record import (
    RunRecord,
    RunState,
    SearchRecord,
    StageEvent,
    StageRecord,
    record_name,
)
from orchestrator.schedule import State
from orchestrator.store.protocol import Store

FLUSH_INTERVAL_S = 5.0
"""Events are written to the store in batches at this interval."""
HEARTBEAT_S = 10.0
"""The interval at which the record is written without news. It shows that the driver is running."""
STORE_OUTAGE_LIMIT_S = 600.0
"""How long the store may be unreachable while stages train. When a stage ends, it must be
reachable."""


@dataclass
class Journal:
    """A run's record, and its events that are not written yet.

    Each write stores the new events as a batch and then the record. That is at most two requests to
    S3 every FLUSH_INTERVAL_S, and one every HEARTBEAT_S without news. The record is enough to show
    the run's state.
    """

    store: Store
    record: RunRecord
    clock: Callable[[], float] = time.time
    """Seconds since the epoch."""
    redacted: Callable[[str], str] = lambda text: redactor(os.environ).redacted_text(text)
    """Replaces secrets: an error may quote a presigned URL, and others read the store."""
    _unwritten: list[StageEvent] = field(default_factory=list)
    _batch: bytes = b""
    """The batch whose write has not succeeded yet. A write that failed may have reached the store,
    and readers keep a batch by its name, so another try writes the same bytes."""
    _num_batches: int = 0
    """How many batches the store has. Their numbers have no gaps."""
    _failing_since_s: float | None = None

    @property
    def states(self) -> Mapping[str, State]:
        return {name: stage.state for name, stage in self.record.stages.items()}

    def enter(self, stage: str, state: State, event: Event, *, error: str | None = None) -> None:
        """Record a stage's new state and the event that caused it. Does not write yet."""
        event = replace(event, text=self.redacted(event.text))
        entered = self.record.stages[stage].entering(
            state, event, time_s=self.clock(), error=self._clean(error)
        )
        self._note(
            StageEvent(
                stage, entered.attempt, self.clock(), replace(event, text=f"{state}: {event.text}")
            ),
            entered,
        )

    def hear(self, heard: StageEvent) -> StageRecord:
        """Record a stage's progress and return its new record."""
        heard = replace(
            heard,
            event=replace(heard.event, text=self.redacted(heard.event.text)),
            lost=self._clean(heard.lost),
        )
        stage = self.record.stages[heard.stage].hearing(heard)
        self._note(heard, stage)
        return stage

    def wait(self, waits: Mapping[str, str]) -> None:
        """Record what each waiting stage waits for. Its next write is soon enough."""
        stages = {
            name: stage.waiting_for(waits.get(name)) if stage.state is State.WAITING else stage
            for name, stage in self.record.stages.items()
        }
        if stages != self.record.stages:
            self.record = self.record.model_copy(update={"stages": stages})

    def _clean(self, text: str | None) -> str | None:
        return None if text is None else self.redacted(text)

    def _note(self, event: StageEvent, stage: StageRecord) -> None:
        self._unwritten.append(event)
        self.record = self.record.model_copy(
            update={"stages": {**self.record.stages, event.stage: stage}}
        )

    def end(self, state: RunState, *, error: str | None = None) -> None:
        """Record how the run ended, and write."""
        self.record = self.record.model_copy(update={"state": state, "error": self._clean(error)})
        self.write()

    def write_if_due(self) -> StoreError | None:
        """Write news or a heartbeat if it is time. Returns the first error of an outage of the
        store.

        Raises StoreError once the store has been unreachable for STORE_OUTAGE_LIMIT_S.
        """
        age_s = self.clock() - self.record.heard_at_s
        # A negative age means that the clock was set back: write, so that the run is not silent.
        has_news = bool(self._batch or self._unwritten)
        if 0 <= age_s < (FLUSH_INTERVAL_S if has_news else HEARTBEAT_S):
            return None
        try:
            self.write()
        except StoreError as err:
            # Nothing is lost: the next write begins with this batch. A short outage must not
            # end hours of training.
            is_first = self._failing_since_s is None
            self._failing_since_s = self._failing_since_s or self.clock()
            if self.clock() - self._failing_since_s > STORE_OUTAGE_LIMIT_S:
                raise
            return err if is_first else None
        return None

    def write(self) -> None:
        """Write the new events and the record. Raises StoreError."""
        self.record = self.record.model_copy(update={"heard_at_s": self.clock()})
        self._write_events()
        self.store.write(
            record_name(self.record.run_id), self.record.model_dump_json(indent=2).encode()
        )
        self._failing_since_s = None

    def _write_events(self) -> None:
        while self._batch or self._unwritten:
            if not self._batch:
                lines = "".join(json.dumps(asdict(event)) + "\n" for event in self._unwritten)
                self._batch, self._unwritten = lines.encode(), []
            name = f"runs/{self.record.run_id}/events/{self._num_batches + 1:06d}.jsonl"
            self.store.write(name, self._batch)
            self._num_batches += 1
            self._batch = b""


def open_journal(
    store: Store, plan: Plan, *, run_id: str, clock: Callable[[], float] = time.time
) -> Journal:
    """Return the journal of a run of `plan` that begins now, after a first write."""
    stages = {planned.name: _waiting(planned) for planned in plan.stages}
    record = RunRecord(
        run_id=run_id,
        job=plan.job.name,
        began_at_s=clock(),
        heard_at_s=clock(),
        user=current_user(),
        stages=stages,
    )
    notify = plan.job.notify
    names = frozenset({notify.url_env} if notify else ())
    journal = Journal(
        store, record, clock, lambda text: redactor(os.environ, names).redacted_text(text)
    )
    journal.write()
    return journal


def current_user() -> str | None:
    """Return the name of this process's user, or None if the machine has none for it, as some
    containers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return None


def _waiting(planned: PlannedStage) -> StageRecord:
    stage = planned.stage
    search = None
    if stage.search is not None:
        (metric,) = stage.metrics
        search = SearchRecord(metric=metric, mode=stage.search.mode, num_trials=stage.search.size)
    return StageRecord(kind=stage.kind.name, key=planned.key, search=search)
