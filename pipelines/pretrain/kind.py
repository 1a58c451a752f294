"""The entry of the kind `pretrain` in the table of kinds. Imports neither torch nor NumPy."""

from __future__ import annotations

from orchestrator.contract import DETAILS, Evaluation, Kind
from pipelines.pretrain.params import PretrainEvaluationParams, PretrainParams
from pipelines.training.metrics import LESS_IS_BETTER, TRAINING


def fingerprint(params: PretrainParams) -> str:
    """Digest of the images and classes; raises DataError if they are missing or their number
    differs from `num_classes`."""
    from pipelines.imagenet import layouts  # noqa: PLC0415  NumPy is imported only when a job is planned

    return layouts.fingerprint(params.data, num_classes=params.num_classes)


def fingerprint_val(params: PretrainParams) -> str:
    """Digest of val only, which is all that an evaluation reads; raises like `fingerprint`."""
    from pipelines.imagenet import layouts  # noqa: PLC0415

    return layouts.fingerprint_val(params.data, num_classes=params.num_classes)


KIND = Kind(
    name="pretrain",
    version=1,
    params=PretrainParams,
    inputs={"weights": frozenset({"pretrain.checkpoint"})},
    outputs=("checkpoint", "log"),
    metrics=lambda _: ("top1", "top5", *TRAINING),
    fingerprint=fingerprint,
    from_outside=frozenset({"weights"}),
    entry="pipelines.pretrain.train:run",
    stops=True,
    keep_best=lambda params: params.keep_best,
    less_is_better=LESS_IS_BETTER,
    fits_workers=PretrainParams.fits_workers,
    evaluation=Evaluation(
        entry="pipelines.pretrain.evaluate:run",
        metrics=lambda _: (
            "top1",
            "top5",
            "params_m",
            "flops_g",
            "images_per_s_fp32",
            "images_per_s_bf16",
        ),
        fingerprint=fingerprint_val,
        params=PretrainEvaluationParams,
        outputs=(DETAILS,),
        takes_file=True,
    ),
)
