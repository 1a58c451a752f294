"""The row of `segmentation` in the table of kinds."""

from __future__ import annotations

from orchestrator.contract import DETAILS, Evaluation, Kind
from pipelines.segmentation.ade20k import fingerprint, fingerprint_val
from pipelines.segmentation.params import SegmentationEvaluationParams, SegmentationParams


def metrics(params: SegmentationParams) -> tuple[str, ...]:
    return ("miou", "macc", "aacc", *(["miou_ms_flip"] if params.tta else []))


KIND = Kind(
    name="segmentation",
    version=1,
    params=SegmentationParams,
    inputs={"backbone": frozenset({"pretrain.checkpoint"})},
    outputs=("checkpoint",),
    metrics=metrics,
    fingerprint=fingerprint,
    from_outside=frozenset({"backbone"}),
    entry="pipelines.segmentation.train:run",
    evaluation=Evaluation(
        entry="pipelines.segmentation.evaluate:run",
        metrics=metrics,
        fingerprint=fingerprint_val,
        params=SegmentationEvaluationParams,
        outputs=(DETAILS,),
    ),
)
