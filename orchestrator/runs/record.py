"""The record of a run, `runs/<run id>/run.json`: the state of the run and of each of its stages.

The record has the newest values, so a reader never needs the events. This module has the values and
updates them from events; the journal writes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Self

from pydantic import ValidationError

from orchestrator.artifact import Value
from orchestrator.contract import Event
from orchestrator.errors import IntegrityError
from orchestrator.schedule import State
from orchestrator.store.protocol import Store


@dataclass(frozen=True)
class StageEvent:
    """An event and its origin. Times are seconds since the epoch."""

    stage: str
    attempt: int | None
    """Counted from 1; None for a stage that did not start."""
    time_s: float
    event: Event
    trial: str | None = None
    """The trial of a search. `event` then has the trial's progress and metrics."""
    lost: str | None = None
    """Why this attempt was lost, if another one follows."""
    is_remark: bool = False
    """Whether the record keeps the text after later events, as for a damaged checkpoint."""
    workers: int | None = None
    """The number of processes that the attempt starts now."""
    waits_for: str | None = None
    """What the attempt lacks to start now, such as free GPUs. Its next event ends the wait."""


class ProgressMark(Value):
    """The progress of a stage at a time."""

    done: float
    time_s: float


class LostAttemptRecord(Value):
    """A lost attempt that was followed by another one."""

    attempt: int
    why: str


class Remark(Value):
    """A note about an attempt that continued, such as on a damaged checkpoint."""

    attempt: int
    text: str


class SearchRecord(Value):
    """The progress of a search, counted in trials."""

    metric: str
    mode: Literal["max", "min"] = "max"
    """Whether a higher (`max`) or a lower (`min`) metric is better."""
    num_trials: int
    num_earlier: float = 0
    """The number of trials that earlier runs finished."""
    trials: Mapping[str, float] = {}
    """The fraction of each trial that is done, 0 to 1, by the trial's id."""

    @property
    def done(self) -> float:
        return self.num_earlier + sum(self.trials.values())

    @property
    def num_left(self) -> int:
        """The number of trials that have not reported their end."""
        ended = sum(part >= 1 for part in self.trials.values())
        return max(0, self.num_trials - int(self.num_earlier) - ended)

    @property
    def num_under_way(self) -> int:
        """The number of trials that have begun in this run but not reported their end."""
        return sum(part < 1 for part in self.trials.values())


class StageRecord(Value):
    """The state of a stage, from the newest of its events."""

    kind: str
    key: str
    state: State = State.WAITING
    attempt: int | None = None
    """Counted from 1; None until the stage starts."""
    lost_attempts: tuple[LostAttemptRecord, ...] = ()
    remarks: tuple[Remark, ...] = ()
    first: ProgressMark | None = None
    """The first progress of this attempt. Resumed training is before it."""
    newest: ProgressMark | None = None
    total: float | None = None
    metrics: Mapping[str, float] = {}
    """The newest value of each metric. For a search, the best value so far."""
    event: str = ""
    heard_at_s: float | None = None
    error: str | None = None
    search: SearchRecord | None = None
    workers: int | None = None
    """The number of processes of this attempt; None until they start."""
    waits_for: str | None = None
    """Why the stage does not start yet, such as `needs pretrain` or `needs 8 GPUs, 4 free`."""
    num_marks: int = 0
    """The number of times that progress was heard in this attempt after `first`."""

    def waiting_for(self, why: str | None) -> Self:
        return self if self.waits_for == why else self.model_copy(update={"waits_for": why})

    def entering(
        self, state: State, event: Event, *, time_s: float, error: str | None = None
    ) -> Self:
        """Return the record of the stage in a new state. Metrics of the event replace all earlier
        ones."""
        changes = {
            "state": state,
            "attempt": 1 if state is State.RUNNING else self.attempt,
            "metrics": _finite(event.metrics) or self.metrics,
            "event": event.text,
            "heard_at_s": time_s,
            "error": error,
            "waits_for": None,
        }
        return self.model_copy(update=changes)

    def hearing(self, heard: StageEvent) -> Self:
        """Return the record updated with `heard`. Late events of a lost attempt or an ended stage
        change nothing."""
        if (
            self.state.is_final
            or self.attempt is None
            or heard.attempt is None
            or heard.attempt < self.attempt
        ):
            return self
        search = self._search_after(heard)
        newest, total = _progress(heard, search)
        is_new_attempt = heard.attempt > self.attempt
        changes = {
            "attempt": heard.attempt,
            "lost_attempts": (*self.lost_attempts, *_lost(heard)),
            "remarks": (*self.remarks, *_remarks(heard)),
            "first": newest if is_new_attempt else self.first or newest,
            "newest": newest if is_new_attempt else newest or self.newest,
            "total": total or self.total,
            "metrics": {**self.metrics, **self._news(heard)},
            "event": heard.event.text,
            "heard_at_s": heard.time_s,
            "search": search,
            "workers": heard.workers or (None if is_new_attempt else self.workers),
            "waits_for": heard.waits_for,
            "num_marks": 0 if is_new_attempt else self.num_marks + bool(self.first and newest),
        }
        return self.model_copy(update=changes)

    def _search_after(self, heard: StageEvent) -> SearchRecord | None:
        done, total = heard.event.done, heard.event.total
        if self.search is None or done is None or not total:
            return self.search
        if heard.trial is None:
            return self.search.model_copy(update={"num_earlier": done})
        trials = {**self.search.trials, heard.trial: min(1.0, done / total)}
        return self.search.model_copy(update={"trials": trials})

    def _news(self, heard: StageEvent) -> Mapping[str, float]:
        metrics = _finite(heard.event.metrics)
        if self.search is None:
            return metrics
        name, better = self.search.metric, max if self.search.mode == "max" else min
        return (
            {name: better(metrics[name], self.metrics.get(name, metrics[name]))}
            if name in metrics
            else {}
        )


def _progress(
    heard: StageEvent, search: SearchRecord | None
) -> tuple[ProgressMark | None, float | None]:
    """Return the stage's progress and its total. A search counts in trials; the unit of its trials
    does not matter."""
    if heard.event.done is None or not heard.event.total:
        return None, None
    if search is not None:
        return ProgressMark(done=search.done, time_s=heard.time_s), float(search.num_trials)
    return ProgressMark(done=heard.event.done, time_s=heard.time_s), heard.event.total


def _lost(heard: StageEvent) -> tuple[LostAttemptRecord, ...]:
    if heard.lost is None or heard.attempt is None:
        return ()
    return (LostAttemptRecord(attempt=heard.attempt, why=heard.lost),)


def _remarks(heard: StageEvent) -> tuple[Remark, ...]:
    if not heard.is_remark or heard.attempt is None:
        return ()
    return (Remark(attempt=heard.attempt, text=heard.event.text),)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics without NaN and infinity, which JSON lacks. The event's text shows
    them."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


class RunState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    """It ended by itself, but some of its stages were cancelled."""


class RunRecord(Value):
    """`runs/<run id>/run.json`."""

    schema_version: Literal[1] = 1
    run_id: str
    job: str
    state: RunState = RunState.RUNNING
    """If the driver was killed, this stays `running`, but `heard_at_s` no longer changes."""
    began_at_s: float
    heard_at_s: float
    """When the driver wrote this record, which it does every few seconds."""
    error: str | None = None
    """Why the whole run ended early. A stage's own error is in its record."""
    user: str | None = None
    """Who started it. None if the machine has no name for the user."""
    stages: Mapping[str, StageRecord]


def record_name(run_id: str) -> str:
    return f"runs/{run_id}/run.json"


def load_record(store: Store, run_id: str) -> RunRecord:
    """Return the record of a run. Raises IntegrityError if it is missing or damaged."""
    where = f"store {store.uri}: {record_name(run_id)}"
    document = store.read(record_name(run_id))
    if document is None:
        raise IntegrityError(
            f"{where}: is missing, although the run is known; run the job again to write a new one"
        )
    try:
        return RunRecord.model_validate_json(document)
    except ValidationError as err:
        raise IntegrityError(
            f"{where}: {_first_fault(err)}; run the job again to write a new one"
        ) from err


def _first_fault(err: ValidationError) -> str:
    """Describe the first fault on one line. Pydantic's own text has several lines per field."""
    fault = err.errors()[0]
    field_path = ".".join(str(part) for part in fault["loc"])
    return f"not a record of a run: {field_path}: {fault['msg']}".replace(": : ", ": ")
