"""The list of alerts, as values. `deploy/prometheus/alerts.yaml` is generated from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestrator.monitoring.metrics import JOB, STAGE

STALLED_AFTER_S = 1800
DATA_BOUND_PERCENT = 20
LOST_ATTEMPTS = 2
"""A stage has three attempts, so two lost ones leave only the last."""
SILENT_AFTER_S = 120
"""The same as for `orchestrator status`: a driver may wait a minute for Ray or S3."""


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

_HEARTBEAT = (
    f"max by ({JOB}) (last_over_time(ray_orchestrator_driver_heartbeat_timestamp_seconds[1h]))"
)
_END = f"max by ({JOB}) (last_over_time(ray_orchestrator_run_end_timestamp_seconds[1h]))"
_IS_RUNNING = f'max by ({_BY_STAGE}) (ray_orchestrator_stage_state{{state="running"}}) == 1'

ALERTS = (
    Alert(
        "StageStalled",
        f"max by ({_BY_STAGE}) (ray_orchestrator_stage_progress_age_seconds) > {STALLED_AFTER_S}",
        for_s=60,
        severity="warning",
        summary=f"{_WHERE} has made no progress for {_VALUE} s",
        action="See its last event in `orchestrator status`, and its workers in Ray's dashboard. "
        "It may also wait for resources that another job holds.",
    ),
    Alert(
        "LossNotFinite",
        f"sum by ({_BY_STAGE}) (increase(ray_orchestrator_nonfinite_losses_total[15m])) > 0",
        for_s=0,
        severity="critical",
        summary=f"{_WHERE}: the loss became NaN or infinite",
        action="Lower `lr`, raise `warmup_epochs`, set `clip_grad`, or use `precision: fp32`. The "
        "stage resumes from its last checkpoint.",
    ),
    Alert(
        "StageDataBound",
        f"max by ({_BY_STAGE}) (ray_orchestrator_data_wait_percent) > {DATA_BOUND_PERCENT} "
        f"and on ({_BY_STAGE}) ({_IS_RUNNING})",
        for_s=900,
        severity="warning",
        summary=f"{_WHERE} waits for data in {_VALUE} % of its time",
        action="Raise `loader_workers` and `cpus_per_worker`, or move the data closer.",
    ),
    Alert(
        "AttemptsLostRepeatedly",
        # Not `increase`, which extrapolates: 2 lost attempts may become 2.4, and 1 become 1.2.
        f"sum by ({_BY_STAGE}) (max_over_time(ray_orchestrator_lost_attempts_total[1h]) "
        f"- min_over_time(ray_orchestrator_lost_attempts_total[1h])) >= {LOST_ATTEMPTS}",
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
        f"(time() - {_HEARTBEAT} > {SILENT_AFTER_S}) unless on ({JOB}) ({_END} >= {_HEARTBEAT})",
        for_s=60,
        severity="critical",
        summary=f"the driver of {_JOB} has been silent for {_VALUE} s, and its run has not ended",
        action="Run the same command again: it resumes. If the cluster's head is gone, start it "
        "first.",
    ),
)
