"""The row of `detection` in the table of kinds."""

from __future__ import annotations

from orchestrator.contract import Evaluation, Kind
from pipelines.detection.coco import fingerprint, fingerprint_val
from pipelines.detection.methods import METHODS
from pipelines.detection.params import DetectionParams


def metrics(params: DetectionParams) -> tuple[str, ...]:
    return METHODS[params.method].metrics


KIND = Kind(
    name="detection",
    version=1,
    params=DetectionParams,
    inputs={"backbone": frozenset({"pretrain.checkpoint"})},
    outputs=("checkpoint",),
    metrics=metrics,
    fingerprint=fingerprint,
    from_outside=frozenset({"backbone"}),
    fault=DetectionParams.start_fault,
    entry="pipelines.detection.train:run",
    evaluation=Evaluation(
        entry="pipelines.detection.evaluate:run",
        metrics=metrics,
        fingerprint=fingerprint_val,
    ),
)
