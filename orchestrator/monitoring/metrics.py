"""The list of live metrics: names, units, tags and panels. Everything else is made from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

JOB = "orchestrator_job"
"""The tag with the job's name. Prometheus labels each target `job`, so Ray's prometheus.yml would
rename a tag of that name to `exported_job`."""
STAGE = "stage"
TRIAL = "trial"
STATE = "state"
METRIC = "metric"
SERIES = "SERIES"
"""In a panel's query: the metric with the dashboard's filters."""


class MetricType(StrEnum):
    GAUGE = "gauge"
    """The newest value."""
    COUNTER = "counter"
    """A sum that only rises. It starts at 0, so that the first increase is seen."""


@dataclass(frozen=True)
class Panel:
    """A panel of the dashboard."""

    row: str
    title: str
    query: str
    """PromQL with SERIES for the metric."""
    unit: str
    """The name of the unit in Grafana."""
    legend: str = "{{stage}}"


@dataclass(frozen=True)
class LiveMetric:
    """A metric that the driver exports during a run."""

    name: str
    help: str
    unit: str
    type: MetricType
    tags: tuple[str, ...]
    panel: Panel
    needs_gpu: bool = False
    """Whether only stages on GPUs have it."""

    @property
    def ray_name(self) -> str:
        """The name that Ray gets. Ray adds its own prefix."""
        return f"orchestrator_{self.name}"

    @property
    def series(self) -> str:
        """The name in Prometheus."""
        suffix = "_total" if self.type is MetricType.COUNTER else ""
        return f"ray_{self.ray_name}{suffix}"

    @property
    def query(self) -> str:
        """The panel's PromQL, filtered by the variables of the dashboard."""
        names = [tag for tag in (JOB, STAGE) if tag in self.tags]
        filters = ", ".join(f'{name}=~"${name}"' for name in names)
        return self.panel.query.replace(SERIES, f"{self.series}{{{filters}}}")


_OF_RUN = (JOB,)
_OF_STAGE = (JOB, STAGE)
_OF_TRIAL = (JOB, STAGE, TRIAL)

# Each driver is a process of its own in Ray, with its own `WorkerId`. The maximum over drivers
# joins the series of a job that was started again.
_NEWEST = f"max by ({JOB}, {STAGE}) ({SERIES})"
_NEWEST_OF_TRIAL = f"max by ({JOB}, {STAGE}, {TRIAL}) ({SERIES})"
_RATE = f"sum by ({JOB}, {STAGE}) (rate({SERIES}[$__rate_interval]))"
_TOTAL = f"sum by ({JOB}, {STAGE}) ({SERIES})"

_RUN, _TRAINING, _FAULTS, _SEARCH = "Run", "Training", "Checkpoints and faults", "Search"

METRICS = (
    LiveMetric(
        "stage_state",
        "1 for the state of the stage, 0 for the other states.",
        "0 or 1",
        MetricType.GAUGE,
        (*_OF_STAGE, STATE),
        Panel(
            _RUN,
            "State",
            f"max by ({JOB}, {STAGE}, {STATE}) ({SERIES}) == 1",
            "none",
            legend="{{stage}} {{state}}",
        ),
    ),
    LiveMetric(
        "stage_progress_ratio",
        "The part of the stage that is done.",
        "0 to 1",
        MetricType.GAUGE,
        _OF_STAGE,
        Panel(_RUN, "Progress", _NEWEST, "percentunit"),
    ),
    LiveMetric(
        "stage_eta_seconds",
        "Time until the stage is done, at the pace of this attempt.",
        "s",
        MetricType.GAUGE,
        _OF_STAGE,
        Panel(_RUN, "Time left", _NEWEST, "s"),
    ),
    LiveMetric(
        "stage_progress_age_seconds",
        "Time since the last progress of a running stage.",
        "s",
        MetricType.GAUGE,
        _OF_STAGE,
        Panel(_RUN, "Time since the last progress", _NEWEST, "s"),
    ),
    LiveMetric(
        "driver_heartbeat_timestamp_seconds",
        "When the driver last exported its metrics.",
        "s since the epoch",
        MetricType.GAUGE,
        _OF_RUN,
        Panel(
            _RUN,
            "Time since the driver's last sign of life",
            f"time() - max by ({JOB}) ({SERIES})",
            "s",
            legend=f"{{{{{JOB}}}}}",
        ),
    ),
    LiveMetric(
        "run_end_timestamp_seconds",
        "When the run ended; 0 while it runs.",
        "s since the epoch",
        MetricType.GAUGE,
        _OF_RUN,
        Panel(
            _RUN,
            "Runs under way",
            f"count by ({JOB}) ({SERIES} == 0)",
            "none",
            legend=f"{{{{{JOB}}}}}",
        ),
    ),
    LiveMetric(
        "loss",
        "The newest training loss.",
        "1",
        MetricType.GAUGE,
        _OF_STAGE,
        Panel(_TRAINING, "Loss", _NEWEST, "none"),
    ),
    LiveMetric(
        "lr",
        "The newest learning rate.",
        "1",
        MetricType.GAUGE,
        _OF_STAGE,
        Panel(_TRAINING, "Learning rate", _NEWEST, "sci"),
    ),
    LiveMetric(
        "main_metric",
        "The newest value of the kind's first metric, such as top1; a search's best value.",
        "the metric's",
        MetricType.GAUGE,
        (*_OF_STAGE, METRIC),
        Panel(
            _TRAINING,
            "Main metric",
            f"max by ({JOB}, {STAGE}, {METRIC}) ({SERIES})",
            "none",
            legend="{{stage}} {{metric}}",
        ),
    ),
    LiveMetric(
        "images_per_second",
        "Images trained per second, over all workers.",
        "1/s",
        MetricType.GAUGE,
        _OF_STAGE,
        Panel(_TRAINING, "Images per second", _NEWEST, "none"),
    ),
    LiveMetric(
        "data_wait_percent",
        "The part of the training time in which rank 0 waited for data.",
        "%",
        MetricType.GAUGE,
        _OF_STAGE,
        Panel(_TRAINING, "Wait for data", _NEWEST, "percent"),
    ),
    LiveMetric(
        "gpu_memory_bytes",
        "The most GPU memory that a worker of the newest attempt has reserved.",
        "bytes",
        MetricType.GAUGE,
        _OF_STAGE,
        Panel(_TRAINING, "GPU memory", _NEWEST, "bytes"),
        needs_gpu=True,
    ),
    LiveMetric(
        "checkpoint_blocked_seconds",
        "Time in which training waited for the upload of the previous checkpoint.",
        "s",
        MetricType.COUNTER,
        _OF_STAGE,
        Panel(
            _FAULTS, "Part of the time that training waits for checkpoints", _RATE, "percentunit"
        ),
    ),
    LiveMetric(
        "upload_seconds",
        "Time of uploads of checkpoints, which run next to training.",
        "s",
        MetricType.COUNTER,
        _OF_STAGE,
        Panel(_FAULTS, "Part of the time with an upload under way", _RATE, "percentunit"),
    ),
    LiveMetric(
        "upload_bytes",
        "Size of the checkpoints that were uploaded.",
        "bytes",
        MetricType.COUNTER,
        _OF_STAGE,
        Panel(_FAULTS, "Uploads of checkpoints", _RATE, "Bps"),
    ),
    LiveMetric(
        "retries",
        "Attempts at the stage or its trials that followed another one in this run.",
        "1",
        MetricType.COUNTER,
        _OF_STAGE,
        Panel(_FAULTS, "Retries", _TOTAL, "none"),
    ),
    LiveMetric(
        "lost_attempts",
        "Attempts at the stage or its trials that lost a worker or the store. A machine that "
        "leaves with notice does not count.",
        "1",
        MetricType.COUNTER,
        _OF_STAGE,
        Panel(_FAULTS, "Lost attempts", _TOTAL, "none"),
    ),
    LiveMetric(
        "nonfinite_losses",
        "How often the loss was NaN or infinite, or training ended for NaN or infinite gradients.",
        "1",
        MetricType.COUNTER,
        _OF_STAGE,
        Panel(_FAULTS, "Losses that are NaN or infinite", _TOTAL, "none"),
    ),
    LiveMetric(
        "trial_progress_ratio",
        "The part of the trial that is done.",
        "0 to 1",
        MetricType.GAUGE,
        _OF_TRIAL,
        Panel(
            _SEARCH, "Progress of trials", _NEWEST_OF_TRIAL, "percentunit", "{{stage}} {{trial}}"
        ),
    ),
    LiveMetric(
        "trial_main_metric",
        "The newest value of the metric that the search optimises.",
        "the metric's",
        MetricType.GAUGE,
        (*_OF_TRIAL, METRIC),
        Panel(
            _SEARCH,
            "Metric of trials",
            f"max by ({JOB}, {STAGE}, {TRIAL}, {METRIC}) ({SERIES})",
            "none",
            "{{stage}} {{trial}}",
        ),
    ),
)


def live_metric(name: str) -> LiveMetric:
    """Return the metric of METRICS with this name."""
    return next(metric for metric in METRICS if metric.name == name)
