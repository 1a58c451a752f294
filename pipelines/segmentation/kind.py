"""The row of `segmentation` in the table of kinds."""

from __future__ import annotations

from orchestrator.contract import Evaluation, Kind
from pipelines.openmmlab.config_file import config_digest
from pipelines.segmentation.ade20k import fingerprint, fingerprint_val
from pipelines.segmentation.params import SegmentationParams


def metrics(params: SegmentationParams) -> tuple[str, ...]:
    return ("miou", "macc", "aacc")


def reads(params: SegmentationParams) -> dict[str, str]:
    """The digest of `config` with what it builds on; raises DataError where it is no config."""
    return {} if params.config is None else {"config": config_digest(params.config, library="mmseg")}


KIND = Kind(
    name="segmentation",
    version=1,
    params=SegmentationParams,
    inputs={"backbone": frozenset({"pretrain.checkpoint"})},
    outputs=("checkpoint",),
    metrics=metrics,
    fingerprint=fingerprint,
    from_outside=frozenset({"backbone"}),
    reads=reads,
    fault=SegmentationParams.start_fault,
    entry="pipelines.segmentation.train:run",
    evaluation=Evaluation(
        entry="pipelines.segmentation.evaluate:run",
        metrics=metrics,
        fingerprint=fingerprint_val,
    ),
)
