"""The state of a job's last run: Status, from the record in the store and the clock. Uses neither
Ray nor data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import JsonValue

from orchestrator.artifact import Manifest
from orchestrator.runs.last_run import LastRun, load_last_run
from orchestrator.runs.record import (
    LostAttemptRecord,
    ProgressMark,
    Remark,
    RunRecord,
    RunState,
    StageRecord,
    load_record,
)
from orchestrator.runs.warnings import StageWarning, find_warnings
from orchestrator.schedule import State
from orchestrator.spec import Job, Stage
from orchestrator.store.protocol import Store
from orchestrator.store.publish import load_manifest

LOST_AFTER_S = 120.0
"""Silence after which a driver counts as lost. It writes every 10 s, but may wait a minute for Ray
or S3."""
NUM_METRICS = 2
"""The number of metrics shown per stage. JSON has all of them."""
RESUME = "run the same command again to resume"


class Condition(StrEnum):
    """The state of a run or a stage."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    REUSED = "reused"
    FAILED = "failed"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """It was running when its run was interrupted or failed as a whole."""
    LOST = "lost"
    """It was running when its driver last wrote the record, which is too long ago."""


@dataclass(frozen=True)
class StageStatus:
    """The status of one stage. `done` and `total` are in the stage's own unit; ages and durations
    are in seconds."""

    stage: str
    kind: str
    state: Condition
    event: str
    attempt: int | None = None
    done: float | None = None
    total: float | None = None
    eta_s: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The kind's own metrics first."""
    heard_s_ago: float | None = None
    key: str | None = None
    lost_attempts: tuple[LostAttemptRecord, ...] = ()
    remarks: tuple[Remark, ...] = ()
    workers: int | None = None
    """The number of processes of the attempt."""
    waits_for: str | None = None
    """Why the stage does not start yet, such as `needs pretrain` or `needs 8 GPUs, 4 free`."""
    warnings: tuple[StageWarning, ...] = ()

    @property
    def share(self) -> float | None:
        """The fraction that is done, 0 to 1, or None before the first progress event."""
        if self.state in (Condition.DONE, Condition.REUSED):
            return 1.0
        return min(1.0, self.done / self.total) if self.done is not None and self.total else None

    @property
    def percent(self) -> int | None:
        """The share in %, rounded down: 100 only when all is done."""
        return None if self.share is None else int(100 * self.share)

    @property
    def shown_metrics(self) -> tuple[str, ...]:
        """The first metrics as text, such as `top1 71.23`."""
        shown = list(self.metrics.items())[:NUM_METRICS]
        return tuple(f"{name} {value:.4g}" for name, value in shown)

    @property
    def shown_workers(self) -> str:
        """Such as `8 workers`; empty before they start."""
        return f"{self.workers} worker{'s' * (self.workers > 1)}" if self.workers else ""

    @property
    def news(self) -> str:
        """What a waiting stage waits for, otherwise the last event."""
        return self.waits_for or self.event if self.state is Condition.WAITING else self.event


@dataclass(frozen=True)
class Status:
    """The state of a job's last run. A job that never ran has no `run_id` and no times."""

    job: str
    state: Condition
    stages: tuple[StageStatus, ...]
    run_id: str | None = None
    began_at_s: float | None = None
    heard_s_ago: float | None = None
    error: str | None = None
    """Why the whole run ended early."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return `{"schema": 1, "job", "run_id", "state", "began_at_s", "heard_s_ago", "error",
        "stages": [...]}`."""
        return {
            "schema": 1,
            "job": self.job,
            "run_id": self.run_id,
            "state": self.state.value,
            "began_at_s": self.began_at_s,
            "heard_s_ago": self.heard_s_ago,
            "error": self.error,
            "stages": [_row_json(row) for row in self.stages],
        }


def _row_json(row: StageStatus) -> dict[str, JsonValue]:
    return {
        "stage": row.stage,
        "kind": row.kind,
        "state": row.state.value,
        "attempt": row.attempt,
        "done": row.done,
        "total": row.total,
        "eta_s": row.eta_s,
        "metrics": dict(row.metrics),
        "event": row.event,
        "heard_s_ago": row.heard_s_ago,
        "key": row.key,
        "lost_attempts": [lost.model_dump(mode="json") for lost in row.lost_attempts],
        "remarks": [remark.model_dump(mode="json") for remark in row.remarks],
        "workers": row.workers,
        "waits_for": row.waits_for,
        "warnings": [{"name": warning.name, "text": warning.text} for warning in row.warnings],
    }


def load_status(job: Job, store: Store, *, now_s: float) -> Status:
    """Return the state of the job's last run at `now_s`.

    Reads two objects, and a manifest for each stage outside that run. Raises StoreError, and
    IntegrityError for damaged records.
    """
    last = load_last_run(store, job.name)
    if last is None:
        return Status(job.name, Condition.WAITING, tuple(_rows_outside(job, {}).values()))
    record = load_record(store, last.run_id)
    others = _manifests_of_others(store, last, record)
    return make_status(job, record, others=others, now_s=now_s)


def _manifests_of_others(store: Store, last: LastRun, record: RunRecord) -> dict[str, Manifest]:
    """Return the manifests of stages that an earlier run finished and this partial run (`--only`)
    did not include."""
    found = {
        name: load_manifest(store, stage.key)
        for name, stage in last.stages.items()
        if name not in record.stages
    }
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def make_status(
    job: Job, record: RunRecord, *, others: Mapping[str, Manifest], now_s: float
) -> Status:
    """Return the status at `now_s`, with a row for each stage of the current job and of the run.

    `others` are the manifests of stages outside the run.
    """
    state = run_condition(record, now_s)
    rows = {
        **_rows_outside(job, others),
        **{
            name: _row(job, name, stage, state, now_s=now_s)
            for name, stage in record.stages.items()
        },
    }
    return Status(
        job=job.name,
        state=state,
        stages=tuple(rows.values()),
        run_id=record.run_id,
        began_at_s=record.began_at_s,
        heard_s_ago=_age_s(record.heard_at_s, now_s),
        error=record.error,
    )


def run_condition(record: RunRecord, now_s: float) -> Condition:
    """Return the state of a run at `now_s`. A driver that is silent for too long is lost."""
    if record.state is RunState.RUNNING and now_s - record.heard_at_s > LOST_AFTER_S:
        return Condition.LOST
    return Condition(record.state)


def _rows_outside(job: Job, manifests: Mapping[str, Manifest]) -> dict[str, StageStatus]:
    """Return a row for every stage of the job, as if the run had none of them."""
    return {name: _row_outside(stage, manifests.get(name)) for name, stage in job.stages.items()}


def _row_outside(stage: Stage, manifest: Manifest | None) -> StageStatus:
    name, kind = stage.name, stage.kind.name
    if manifest is None:
        return StageStatus(name, kind, Condition.WAITING, "it has not run yet")
    metrics = {metric.name: metric.value for metric in manifest.metrics}
    return StageStatus(
        name, kind, Condition.DONE, "in an earlier run", metrics=metrics, key=manifest.key
    )


def _row(job: Job, name: str, stage: StageRecord, run: Condition, *, now_s: float) -> StageStatus:
    state = _stage_condition(stage.state, run)
    done = stage.newest.done if stage.newest else None
    return StageStatus(
        stage=name,
        kind=stage.kind,
        state=state,
        attempt=stage.attempt,
        # The last event of a finished stage may be lost, or come from a pruned trial.
        done=stage.total if state is Condition.DONE else done,
        total=stage.total,
        eta_s=eta_s(stage.first, stage.newest, stage.total, now_s=now_s)
        if state is Condition.RUNNING
        else None,
        metrics=_ordered(stage.metrics, job.stages[name].metrics if name in job.stages else ()),
        event=stage.event or "it has not started yet",
        heard_s_ago=None if stage.heard_at_s is None else _age_s(stage.heard_at_s, now_s),
        key=stage.key,
        lost_attempts=stage.lost_attempts,
        remarks=stage.remarks,
        workers=stage.workers,
        waits_for=stage.waits_for if run is Condition.RUNNING else None,
        warnings=find_warnings(stage, is_running=state is Condition.RUNNING, now_s=now_s),
    )


def _stage_condition(state: State, run: Condition) -> Condition:
    if state is not State.RUNNING or run is Condition.RUNNING:
        return Condition(state)
    return Condition.LOST if run is Condition.LOST else Condition.INTERRUPTED


def eta_s(
    first: ProgressMark | None, newest: ProgressMark | None, total: float | None, *, now_s: float
) -> float | None:
    """Return the seconds until `total` at the pace since `first`, or None if no pace is known.

    `first` is the first progress of this attempt. What was done before was resumed or included the
    start-up, so it is not part of the pace.
    """
    if first is None or newest is None or total is None or newest.done <= first.done:
        return None
    pace_s = (newest.time_s - first.time_s) / (newest.done - first.done)
    return max(0.0, (total - newest.done) * pace_s - (now_s - newest.time_s))


def _age_s(time_s: float, now_s: float) -> float:
    """Return the age, never negative: the clocks of two machines differ a little."""
    return max(0.0, now_s - time_s)


def _ordered(metrics: Mapping[str, float], first: tuple[str, ...]) -> dict[str, float]:
    names = dict.fromkeys([*(name for name in first if name in metrics), *metrics])
    return {name: metrics[name] for name in names}
