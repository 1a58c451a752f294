"""The entry of `segmentation` in the table of kinds. Imports neither torch nor NumPy."""

from __future__ import annotations

from orchestrator.contract import DETAILS, Evaluation, Kind
from pipelines.openmmlab.config_file import config_digest
from pipelines.segmentation.params import SegmentationEvaluationParams, SegmentationParams
from pipelines.training.metrics import LESS_IS_BETTER, TRAINING


def scores(params: SegmentationParams) -> tuple[str, ...]:
    return ("miou", "macc", "aacc", *(["miou_ms_flip"] if params.tta else []))


def metrics(params: SegmentationParams) -> tuple[str, ...]:
    return (*measured(params), *TRAINING)


def measured(params: SegmentationParams) -> tuple[str, ...]:
    """Names of the metrics of an evaluation."""
    return (*scores(params), *params.sizes)


def reads(params: SegmentationParams) -> dict[str, str]:
    """The digest of `config` and its bases. Raises DataError if it is not a valid config."""
    return (
        {} if params.config is None else {"config": config_digest(params.config, library="mmseg")}
    )


def fingerprint(params: SegmentationParams) -> str:
    """Digest of the images and label maps. Raises DataError if they are missing or wrong."""
    from pipelines.segmentation import ade20k  # noqa: PLC0415  only a job with segmentation pays for NumPy

    return ade20k.fingerprint(params)


def fingerprint_val(params: SegmentationParams) -> str:
    """Digest of val only, because an evaluation reads nothing else."""
    from pipelines.segmentation import ade20k  # noqa: PLC0415

    return ade20k.fingerprint_val(params)


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
    misfits=SegmentationParams.start_misfits,
    entry="pipelines.segmentation.train:run",
    stops=True,
    keep_best=lambda params: params.keep_best,
    less_is_better=LESS_IS_BETTER,
    fits_workers=SegmentationParams.fits_workers,
    evaluation=Evaluation(
        entry="pipelines.segmentation.evaluate:run",
        metrics=measured,
        fingerprint=fingerprint_val,
        params=SegmentationEvaluationParams,
        outputs=(DETAILS,),
    ),
)
