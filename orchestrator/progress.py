"""The progress of a run: what happens goes to its journal, its watcher and its live metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from orchestrator.cluster.exporter import Exporter
from orchestrator.contract import Event
from orchestrator.monitoring.tally import Amounts, Tally
from orchestrator.runs.journal import STORE_OUTAGE_LIMIT_S, Journal
from orchestrator.runs.record import RunState, StageEvent
from orchestrator.schedule import State


@dataclass(frozen=True)
class Update:
    """The news for a watcher: a stage's state, and the event that caused it."""

    stage: str
    state: State
    event: Event


Watcher = Callable[[Update], None]


@dataclass
class Progress:
    """Only the journal decides when the store is written. Nothing else here waits."""

    journal: Journal
    watch: Watcher
    tally: Tally
    exporter: Exporter = field(default_factory=Exporter)

    def enter(self, stage: str, state: State, event: Event, *, error: str | None = None) -> None:
        """Pass on a stage's new state and the event that caused it."""
        self.journal.enter(stage, state, event, error=error)
        self.watch(Update(stage, state, event))

    def hear(self, events: Iterable[StageEvent]) -> None:
        """Pass on events of workers."""
        for heard in events:
            self.tally.hear(heard)
            stage = self.journal.hear(heard)
            # Show the progress of the stage: a search's trials have their own progress.
            done = stage.newest.done if stage.newest else None
            self.watch(
                Update(heard.stage, stage.state, replace(heard.event, done=done, total=stage.total))
            )

    def say(self, stage: str, text: str) -> None:
        """Pass on a line of the driver about a running stage."""
        attempt = self.journal.record.stages[stage].attempt
        self.hear([StageEvent(stage, attempt, time.time(), Event(text))])

    def count(self, amounts: Iterable[Amounts]) -> None:
        for one in amounts:
            self.tally.add(one)

    def write_if_due(self, running: Iterable[str]) -> None:
        """Write the journal if it is time, and report an outage of the store to the stages that
        run.

        Raises StoreError once the outage is too long.
        """
        outage = self.journal.write_if_due()
        if outage is not None:
            text = f"{outage}; trying again for up to {STORE_OUTAGE_LIMIT_S / 60:g} minutes"
            for name in running:
                self.say(name, text)

    def export_if_due(self) -> None:
        if self.exporter.is_due:
            self.export()

    def export(self, *, has_ended: bool = False) -> None:
        """Export the live metrics. `has_ended` says that nothing will change any more."""
        record = self.journal.record
        is_over = has_ended or record.state is not RunState.RUNNING
        self.exporter.export(self.tally.readings(record, now_s=time.time(), has_ended=is_over))
