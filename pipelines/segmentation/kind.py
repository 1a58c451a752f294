"""The row of `segmentation` in the table of kinds."""

from __future__ import annotations

from orchestrator.contract import Kind
from pipelines.segmentation.ade20k import fingerprint
from pipelines.segmentation.params import SegmentationParams

KIND = Kind(
    name="segmentation",
    version=1,
    params=SegmentationParams,
    inputs={"backbone": frozenset({"pretrain.checkpoint"})},
    outputs=("checkpoint",),
    metrics=lambda _: ("miou", "macc", "aacc"),
    fingerprint=fingerprint,
    from_outside=frozenset({"backbone"}),
    entry="pipelines.segmentation.train:run",
)
