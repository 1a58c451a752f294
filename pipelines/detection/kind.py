"""The row of `detection` in the table of kinds."""

from __future__ import annotations

from orchestrator.contract import DETAILS, Evaluation, Kind
from pipelines.detection.coco import fingerprint, fingerprint_val
from pipelines.detection.methods import METHODS
from pipelines.detection.params import DetectionEvaluationParams, DetectionParams


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
    entry="pipelines.detection.train:run",
    evaluation=Evaluation(
        entry="pipelines.detection.evaluate:run",
        metrics=lambda params: METHODS[params.method].all_metrics,
        fingerprint=fingerprint_val,
        params=DetectionEvaluationParams,
        outputs=(DETAILS,),
    ),
)
