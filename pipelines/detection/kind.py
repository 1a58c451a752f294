"""The row of `detection` in the table of kinds."""

from __future__ import annotations

from orchestrator.contract import Kind
from pipelines.detection.coco import fingerprint
from pipelines.detection.methods import METHODS
from pipelines.detection.params import DetectionParams

KIND = Kind(
    name="detection",
    version=1,
    params=DetectionParams,
    inputs={"backbone": frozenset({"pretrain.checkpoint"})},
    outputs=("checkpoint",),
    metrics=lambda params: METHODS[params.method].metrics,
    fingerprint=fingerprint,
    from_outside=frozenset({"backbone"}),
    entry="pipelines.detection.train:run",
)
