"""The values of the live metrics, from a run's record and from what its workers have measured."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.monitoring.metrics import JOB, METRIC, STAGE, STATE, TRIAL
from orchestrator.runs.record import RunRecord, StageEvent, StageRecord
from orchestrator.runs.status import eta_s
from orchestrator.schedule import State

MAX_TRIALS = 200
"""The number of trials, the newest ones, with live metrics. Prometheus keeps each as series."""
_NEWEST = {
    "loss": "loss",
    "lr": "lr",
    "images_per_s": "images_per_second",
    "data_wait": "data_wait_percent",
}
"""The metrics of events that have a live metric of their own."""


@dataclass(frozen=True)
class Amounts:
    """What has happened in an attempt at a stage since its last Amounts."""

    stage: str
    attempt: int
    checkpoint_s: float = 0.0
    """Seconds in which training waited for the upload of a checkpoint."""
    upload_s: float = 0.0
    upload_bytes: int = 0
    retries: int = 0
    lost_attempts: int = 0
    nonfinite_losses: int = 0
    gpu_memory_bytes: int = 0
    """The most memory that the worker has reserved so far; 0 without a GPU."""


@dataclass(frozen=True)
class Reading:
    """The value of a live metric. A counter's value is its total."""

    name: str
    value: float
    tags: Mapping[str, str]


@dataclass
class _Totals:
    """The sums of a stage's Amounts."""

    checkpoint_blocked_seconds: float = 0.0
    upload_seconds: float = 0.0
    upload_bytes: float = 0.0
    retries: float = 0.0
    lost_attempts: float = 0.0
    nonfinite_losses: float = 0.0

    def add(self, amounts: Amounts) -> None:
        self.checkpoint_blocked_seconds += amounts.checkpoint_s
        self.upload_seconds += amounts.upload_s
        self.upload_bytes += amounts.upload_bytes
        self.retries += amounts.retries
        self.lost_attempts += amounts.lost_attempts
        self.nonfinite_losses += amounts.nonfinite_losses


@dataclass
class _TrialValues:
    progress: float = 0.0
    metric: float | None = None


@dataclass
class Tally:
    """What the record of a run lacks: sums of Amounts, and the newest values of trials."""

    main_metrics: Mapping[str, str]
    """The name of each stage's first metric."""
    _totals: defaultdict[str, _Totals] = field(default_factory=lambda: defaultdict(_Totals))
    _gpu_bytes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The newest attempt and its most memory, by stage."""
    _trials: dict[tuple[str, str], _TrialValues] = field(default_factory=dict)
    _newest: defaultdict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    """The metrics of each stage. A stage that ends replaces those in its record."""

    def add(self, amounts: Amounts) -> None:
        self._totals[amounts.stage].add(amounts)
        if amounts.gpu_memory_bytes:
            newest = (amounts.attempt, amounts.gpu_memory_bytes)
            self._gpu_bytes[amounts.stage] = max(newest, self._gpu_bytes.get(amounts.stage, newest))

    def hear(self, heard: StageEvent) -> None:
        """Note the trial of an event, or a loss that is NaN or infinite, which records lack.

        Trials that diverge are part of a search, so their losses do not count.
        """
        if heard.trial is None:
            is_finite = math.isfinite(heard.event.metrics.get("loss", 0.0))
            self._totals[heard.stage].nonfinite_losses += not is_finite
            return
        key = (heard.stage, heard.trial)
        values = self._trials.setdefault(key, _TrialValues())
        if heard.event.done is not None and heard.event.total:
            values.progress = min(1.0, heard.event.done / heard.event.total)
        metric = heard.event.metrics.get(self.main_metrics[heard.stage], math.nan)
        values.metric = metric if math.isfinite(metric) else values.metric
        if len(self._trials) > MAX_TRIALS:
            del self._trials[next(iter(self._trials))]

    def readings(self, record: RunRecord, *, now_s: float, has_ended: bool) -> Iterator[Reading]:
        """Yield the value of every live metric that has one. `now_s` is in seconds since the
        epoch."""
        job = {JOB: record.job}
        yield Reading("driver_heartbeat_timestamp_seconds", now_s, job)
        yield Reading("run_end_timestamp_seconds", now_s if has_ended else 0.0, job)
        for name, stage in record.stages.items():
            yield from self._of_stage(name, stage, {**job, STAGE: name}, now_s=now_s)
        for (name, trial), values in self._trials.items():
            tags = {**job, STAGE: name, TRIAL: trial}
            yield Reading("trial_progress_ratio", values.progress, tags)
            if values.metric is not None:
                metric = {**tags, METRIC: self.main_metrics[name]}
                yield Reading("trial_main_metric", values.metric, metric)

    def _of_stage(
        self, name: str, stage: StageRecord, tags: Mapping[str, str], *, now_s: float
    ) -> Iterator[Reading]:
        for state in State:
            is_now = float(state is stage.state)
            yield Reading("stage_state", is_now, {**tags, STATE: state.value})
        for live_name, value in _progress(stage, now_s=now_s).items():
            yield Reading(live_name, value, tags)
        newest = self._newest[name]
        newest.update(stage.metrics)
        for event_name, live_name in _NEWEST.items():
            if event_name in newest:
                yield Reading(live_name, newest[event_name], tags)
        main = self.main_metrics[name]
        if main in newest:
            yield Reading("main_metric", newest[main], {**tags, METRIC: main})
        for live_name, value in vars(self._totals[name]).items():
            yield Reading(live_name, value, tags)
        if name in self._gpu_bytes:
            yield Reading("gpu_memory_bytes", self._gpu_bytes[name][1], tags)


def _progress(stage: StageRecord, *, now_s: float) -> dict[str, float]:
    """How far the stage is. A stage that has not started has no values."""
    if stage.state in (State.DONE, State.REUSED):
        return {"stage_progress_ratio": 1.0, "stage_eta_seconds": 0.0}
    found: dict[str, float] = {}
    if stage.newest is not None and stage.total:
        found["stage_progress_ratio"] = min(1.0, stage.newest.done / stage.total)
    if stage.state is State.RUNNING:
        left_s = eta_s(stage.first, stage.newest, stage.total, now_s=now_s)
        if left_s is not None:
            found["stage_eta_seconds"] = left_s
        since_s = stage.newest.time_s if stage.newest is not None else stage.heard_at_s
        found["stage_progress_age_seconds"] = max(0.0, now_s - (since_s or now_s))
    return found
