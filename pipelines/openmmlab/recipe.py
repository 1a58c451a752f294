"""Pieces of mmengine configs that both libraries share, and their requirements on params and
device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import JobError
from pipelines.openmmlab.images import LoadUpright
from pipelines.openmmlab.library import FUNCTIONS
from pipelines.openmmlab.optimizer import FewGroups
from pipelines.openmmlab.params import FinetuneParams
from pipelines.openmmlab.samplers import SeededDataset
from pipelines.training.loader_process import end_with_trainer

Config = dict[str, Any]

NORMALISATION: Config = {
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "bgr_to_rgb": True,
}
"""ImageNet's normalisation of RGB images, as in CAT's pretraining."""

CAFFE_NORMALISATION: Config = {
    "mean": [102.9801, 115.9465, 122.7717],
    "std": [1.0, 1.0, 1.0],
    "bgr_to_rgb": False,
}
"""Normalisation of BGR images by the mean only, as the weights of Caffe's ResNets need it."""

LOAD_IMAGE: Config = {"type": LoadUpright.__name__}


def optim_wrapper(params: FinetuneParams, *, device: str) -> Config:
    """AdamW in the precision of the params, without weight decay for norms and position
    parameters."""
    wrapper: Config = {
        "type": "OptimWrapper",
        "constructor": FewGroups.__name__,
        "optimizer": {
            "lr": params.peak_lr,
            "betas": (0.9, 0.999),
            "weight_decay": params.weight_decay,
        },
        "paramwise_cfg": {
            "without_decay": _without_decay(params),
            "layer_decay": params.layer_decay,
        },
    }
    if params.clip_grad is not None:
        wrapper["clip_grad"] = {"max_norm": params.clip_grad, "norm_type": 2}
    if params.precision == "fp32":
        return wrapper
    if device == "cpu":
        raise JobError(
            f"precision: {params.precision} needs a GPU and this worker has none; use `precision: "
            "fp32`"
        )
    dtype = {"bf16": "bfloat16", "fp16": "float16"}[params.precision]
    # bfloat16 has the range of float32, so the loss needs no scaling.
    loss_scale = "dynamic" if params.precision == "fp16" else 1.0
    return {**wrapper, "type": "AmpOptimWrapper", "dtype": dtype, "loss_scale": loss_scale}


def cosine_end(params: FinetuneParams) -> Config:
    """The end of a cosine schedule: `min_lr`, or a share of each group's rate if the groups of the
    optimizer have different rates."""
    return (
        {"eta_min": params.min_lr}
        if params.layer_decay == 1
        else {"eta_min_ratio": params.min_lr / params.peak_lr}
    )


def _without_decay(params: FinetuneParams) -> tuple[str, ...]:
    """Name parts of the parameters without weight decay. The reference meant to include its
    position embedding but misspelled the name."""
    spared = ("norm", "relative_position_bias_table")
    return spared if params.fidelity == "reference" else (*spared, "backbone.ape")


def loader(
    dataset: Config, *, batch_size: int, num_workers: int, sampler: Config, **more: object
) -> Config:
    """The config of a DataLoader. Its processes come from a fork server, because a worker with
    threads and CUDA cannot fork safely."""
    processes: Config = {
        "multiprocessing_context": "forkserver",
        "persistent_workers": True,
        "worker_init_fn": {"type": end_with_trainer.__name__},
    }
    return {
        "batch_size": batch_size,
        "num_workers": num_workers,
        **(processes if num_workers else {}),
        "sampler": sampler,
        "dataset": dataset,
        **more,
    }


def train_loader(
    dataset: Config, params: FinetuneParams, *, sampler: Config, seed: int, world_size: int
) -> Config:
    """The config of the training DataLoader. `sampler` is one of samplers.py, without the arguments
    that all samplers share."""
    return loader(
        {"type": SeededDataset.__name__, "dataset": dataset, "seed": seed},
        batch_size=share_of_batch(params.batch_size, world_size),
        num_workers=params.loader_workers,
        sampler={**sampler, "seed": seed, "batch_size": params.batch_size},
    )


def val_loader(dataset: Config, *, num_workers: int) -> Config:
    """The config of the validation DataLoader. It loads one image at a time, as published, because
    in a batch each image would be padded to the largest."""
    sampler = {"type": "DefaultSampler", "shuffle": False}
    return loader(dataset, batch_size=1, num_workers=num_workers, sampler=sampler, drop_last=False)


def share_of_batch(batch_size: int, world_size: int) -> int:
    """Images per iteration on each worker."""
    if batch_size % world_size:
        raise JobError(
            f"batch_size: {batch_size} images cannot be shared equally by {world_size} workers; "
            "give a multiple of "
            f"{world_size}, or another number of workers"
        )
    return batch_size // world_size


def backbone(
    cat_config: Mapping[str, object],
    checkpoint_dir: str | None,
    *,
    frozen_stages: int | None = None,
) -> Config:
    """The config of CAT with the weights of a pretrained checkpoint, or random weights for None."""
    frozen = {} if frozen_stages is None else {"frozen_stages": frozen_stages}
    return {"type": "CAT", "config": dict(cat_config), "checkpoint": checkpoint_dir, **frozen}


FUNCTIONS.register_module(name=end_with_trainer.__name__, module=end_with_trainer)
