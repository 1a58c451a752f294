"""The row of `segmentation` in the table of kinds."""

from __future__ import annotations

from orchestrator.contract import DETAILS, Evaluation, Kind
from pipelines.openmmlab.config_file import config_digest
from pipelines.segmentation.ade20k import fingerprint, fingerprint_val
from pipelines.segmentation.params import SegmentationEvaluationParams, SegmentationParams


def metrics(params: SegmentationParams) -> tuple[str, ...]:
    return ("miou", "macc", "aacc", *(["miou_ms_flip"] if params.tta else []))


def files_digest(params: SegmentationParams) -> str | None:
    """Digest of `config` and of what it builds on; raises DataError where it is no config."""
    return None if params.config is None else config_digest(params.config, library="mmseg")


KIND = Kind(
    name="segmentation",
    version=1,
    params=SegmentationParams,
    inputs={"backbone": frozenset({"pretrain.checkpoint"})},
    outputs=("checkpoint",),
    metrics=metrics,
    fingerprint=fingerprint,
    from_outside=frozenset({"backbone"}),
    files_digest=files_digest,
    fault=SegmentationParams.start_fault,
    entry="pipelines.segmentation.train:run",
    stops=True,
    fits_workers=SegmentationParams.fits_workers,
    evaluation=Evaluation(
        entry="pipelines.segmentation.evaluate:run",
        metrics=metrics,
        fingerprint=fingerprint_val,
        params=SegmentationEvaluationParams,
        outputs=(DETAILS,),
    ),
)
