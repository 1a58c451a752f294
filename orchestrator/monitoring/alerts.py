"""The list of alerts, as values. `deploy/prometheus/alerts.yaml` is generated from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestrator.monitoring.metrics import JOB, STAGE, live_metric
from orchestrator.runs.status import LOST_AFTER_S
from orchestrator.runs.warnings import MOST_DATA_WAIT

STALLED_AFTER_S = 1800
LOST_ATTEMPTS = 2
"""A stage has three attempts, so two lost ones leave only the last."""


@dataclass(frozen=True)
class Alert:
    """A rule of Prometheus."""

    name: str
    query: str
    for_s: int
    """How long the query must have a result before the alert fires."""
    severity: Literal["warning", "critical"]
    summary: str
    action: str
    """What to do."""


_BY_STAGE = f"{JOB}, {STAGE}"
_JOB = f"{{{{ $labels.{JOB} }}}}"
_WHERE = f"{_JOB}/{{{{ $labels.{STAGE} }}}}"
_VALUE = '{{ $value | printf "%.0f" }}'

_PROGRESS_AGE = live_metric("stage_progress_age_seconds").series
_NONFINITE = live_metric("nonfinite_losses").series
_DATA_WAIT = live_metric("data_wait_percent").series
_LOST = live_metric("lost_attempts").series
_HEARTBEAT = (
    f"max by ({JOB}) "
    f"(last_over_time({live_metric('driver_heartbeat_timestamp_seconds').series}[1h]))"
)
_END = f"max by ({JOB}) (last_over_time({live_metric('run_end_timestamp_seconds').series}[1h]))"
_IS_RUNNING = f'max by ({_BY_STAGE}) ({live_metric("stage_state").series}{{state="running"}}) == 1'

ALERTS = (
    Alert(
        "StageStalled",
        f"max by ({_BY_STAGE}) ({_PROGRESS_AGE}) > {STALLED_AFTER_S}",
        for_s=60,
        severity="warning",
        summary=f"{_WHERE} has made no progress for {_VALUE} s",
        action="See its last event in `orchestrator status`, and its workers in Ray's dashboard. "
        "It may also wait for resources that another job holds.",
    ),
    Alert(
        "LossNotFinite",
        f"sum by ({_BY_STAGE}) (increase({_NONFINITE}[15m])) > 0",
        for_s=0,
        severity="critical",
        summary=f"{_WHERE}: the loss became NaN or infinite",
        action="Lower `lr`, raise `warmup_epochs`, set `clip_grad`, or use `precision: fp32`. The "
        "stage resumes from its last checkpoint.",
    ),
    Alert(
        "StageDataBound",
        f"max by ({_BY_STAGE}) ({_DATA_WAIT}) > {MOST_DATA_WAIT:g} "
        f"and on ({_BY_STAGE}) ({_IS_RUNNING})",
        for_s=900,
        severity="warning",
        summary=f"{_WHERE} waits for data in {_VALUE} % of its time",
        action="Raise `loader_workers` and `cpus_per_worker`, or move the data closer.",
    ),
    Alert(
        "AttemptsLostRepeatedly",
        # Not `increase`, which extrapolates: 2 lost attempts may become 2.4, and 1 become 1.2.
        f"sum by ({_BY_STAGE}) (max_over_time({_LOST}[1h]) "
        f"- min_over_time({_LOST}[1h])) >= {LOST_ATTEMPTS}",
        for_s=0,
        severity="critical",
        summary=f"{_WHERE} has lost {_VALUE} attempts within an hour",
        action="`orchestrator status` has the reason of each loss. Often memory runs out: see "
        "`resources.memory_gib_per_worker`.",
    ),
    Alert(
        "DriverSilent",
        # The gauges of a dead driver vanish, so the query looks for their last values. A run that
        # ended sets both to the same time.
        f"(time() - {_HEARTBEAT} > {LOST_AFTER_S:g}) unless on ({JOB}) ({_END} >= {_HEARTBEAT})",
        for_s=60,
        severity="critical",
        summary=f"the driver of {_JOB} has been silent for {_VALUE} s, and its run has not ended",
        action="Run the same command again: it resumes. If the cluster's head is gone, start it "
        "first.",
    ),
)
