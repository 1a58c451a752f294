"""The row of `detection` in the table of kinds."""

from __future__ import annotations

from orchestrator.contract import Evaluation, Kind
from pipelines.detection.coco import fingerprint, fingerprint_val
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.config_file import config_digest


def metrics(params: DetectionParams) -> tuple[str, ...]:
    return params.traits.metrics


def reads(params: DetectionParams) -> dict[str, str]:
    """The digest of `config` with what it builds on; raises DataError where it is no config."""
    return {} if params.config is None else {"config": config_digest(params.config, library="mmdet")}


KIND = Kind(
    name="detection",
    version=1,
    params=DetectionParams,
    inputs={"backbone": frozenset({"pretrain.checkpoint"})},
    outputs=("checkpoint",),
    metrics=metrics,
    fingerprint=fingerprint,
    from_outside=frozenset({"backbone"}),
    reads=reads,
    fault=DetectionParams.start_fault,
    entry="pipelines.detection.train:run",
    evaluation=Evaluation(
        entry="pipelines.detection.evaluate:run",
        metrics=metrics,
        fingerprint=fingerprint_val,
    ),
)
