"""The entry of `detection` in the table of kinds. Imports neither torch nor NumPy."""

from __future__ import annotations

from orchestrator.contract import DETAILS, Evaluation, Kind
from pipelines.detection.params import DetectionEvaluationParams, DetectionParams
from pipelines.openmmlab.config_file import config_digest
from pipelines.training.metrics import LESS_IS_BETTER, TRAINING


def metrics(params: DetectionParams) -> tuple[str, ...]:
    return (*params.traits.metrics, *params.sizes, *TRAINING)


def reads(params: DetectionParams) -> dict[str, str]:
    """The digest of `config` and its bases. Raises DataError if it is not a valid config."""
    return (
        {} if params.config is None else {"config": config_digest(params.config, library="mmdet")}
    )


def fingerprint(params: DetectionParams) -> str:
    """Digest of the annotations and images. Raises DataError if they are missing or wrong."""
    from pipelines.detection.annotations import coco  # noqa: PLC0415  only a job with detection pays for NumPy

    return coco.fingerprint(params)


def fingerprint_val(params: DetectionParams) -> str:
    """Digest of val only, because an evaluation reads nothing else."""
    from pipelines.detection.annotations import coco  # noqa: PLC0415

    return coco.fingerprint_val(params)


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
    misfits=DetectionParams.start_misfits,
    entry="pipelines.detection.train:run",
    stops=True,
    keep_best=lambda params: params.keep_best,
    less_is_better=LESS_IS_BETTER,
    fits_workers=DetectionParams.fits_workers,
    evaluation=Evaluation(
        entry="pipelines.detection.evaluate:run",
        metrics=lambda params: (*params.traits.all_metrics, *params.sizes),
        fingerprint=fingerprint_val,
        params=DetectionEvaluationParams,
        outputs=(DETAILS,),
    ),
)
