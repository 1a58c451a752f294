"""Measures a finished segmenter on validation, with one view of each image or with all views of
multi-scale + flip."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from orchestrator.artifact import Metric
from orchestrator.contract import StageContext
from orchestrator.errors import DataError
from pipelines.openmmlab.recipe import Config
from pipelines.openmmlab.runner import Validation, validate
from pipelines.segmentation.ade20k import Pairs
from pipelines.segmentation.config import Kept, make_val_config
from pipelines.segmentation.multi_scale_flip import (
    multi_scale_flip_model,
    multi_scale_flip_pipeline,
    weights_of_module,
)
from pipelines.segmentation.scores import PREFIX

METRICS = ("miou", "macc", "aacc")
MULTI_SCALE_FLIP = "miou_ms_flip"


@dataclass(frozen=True)
class Subject:
    """A finished segmenter and its validation images."""

    model: Config
    weights: Mapping[str, Tensor]
    pairs: Pairs
    split_file: Path
    """File with the names of the pairs whose images decode."""
    classes: tuple[str, ...]


def percentages(values: Mapping[str, float]) -> dict[str, float]:
    """The evaluator's values, in %, by the names of our metrics."""
    metrics = {name: float(values[f"{PREFIX}/{name}"]) for name in METRICS}
    for name, value in metrics.items():
        if math.isnan(value):
            raise DataError(
                f"{name} cannot be measured: the validation label maps have no labeled pixel"
            )
    return metrics


def measure(
    context: StageContext, subject: Subject, kept: Kept | None = None
) -> tuple[Metric, ...]:
    """METRICS, measured as in a training's validation. Rank 0 writes the files of `kept`."""
    config = {"model": subject.model, **_val_config(context, subject, kept)}
    return validate(context, Validation("mmseg", config, subject.weights, percentages)).as_metrics(
        METRICS
    )


def measure_multi_scale_flip(
    context: StageContext, subject: Subject, kept: Kept | None = None
) -> tuple[Metric, ...]:
    """MULTI_SCALE_FLIP. Rank 0 writes the files of `kept`."""
    val = _val_config(context, subject, kept, multi_scale_flip_pipeline(context.params))
    config = {"model": multi_scale_flip_model(subject.model), **val}

    def of_all_views(values: Mapping[str, float]) -> dict[str, float]:
        return {MULTI_SCALE_FLIP: percentages(values)["miou"]}

    validation = Validation("mmseg", config, weights_of_module(subject.weights), of_all_views)
    return validate(context, validation).as_metrics([MULTI_SCALE_FLIP])


def _val_config(
    context: StageContext,
    subject: Subject,
    kept: Kept | None,
    pipeline: Sequence[Config] | None = None,
) -> Config:
    return make_val_config(
        context.params,
        pairs=subject.pairs,
        split_file=subject.split_file,
        classes=subject.classes,
        pipeline=pipeline,
        kept=kept,
    )
