"""The metrics that every training reports in addition to its scores: loss, speed and wait for data.
Imports no torch."""

from __future__ import annotations

from orchestrator.artifact import Metric, unit_of

TRAINING = ("loss", "images_per_s", "data_wait")
"""Names of these metrics. `loss` is the mean loss of the last epoch, or between the last two
validations. `images_per_s` is over all workers. `data_wait` is the part of the time, in %, in which
rank 0 waited for data."""

LESS_IS_BETTER = frozenset({"loss", "data_wait", "params_m", "flops_g"})
"""Metrics that a search must not maximise."""


def training_metrics(
    *, loss: float | None, images_per_s: float, data_wait: float
) -> tuple[Metric, ...]:
    """Metrics on train. `loss` is None if an older version trained, which did not keep it."""
    values = dict(zip(TRAINING, (loss, images_per_s, data_wait), strict=True))
    return tuple(
        Metric(name=name, value=value, unit=unit_of(name), split="train", num_samples=None)
        for name, value in values.items()
        if value is not None
    )
