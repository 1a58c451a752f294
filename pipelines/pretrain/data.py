"""The loaders of a pretraining stage: its images, this rank's share of them, and their transforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from orchestrator.contract import StageContext
from orchestrator.errors import DataError, JobError
from pipelines.data import data_folder
from pipelines.imagenet.augmentation import make_train_augmentation
from pipelines.imagenet.dataset import Draw, Images, TrainDraws, ValDraws, collate
from pipelines.imagenet.folders import Index, load_index
from pipelines.imagenet.transforms import Recipe, eval_transform
from pipelines.model_params import img_size_of
from pipelines.pretrain.params import PretrainParams


@dataclass(frozen=True)
class Loaders:
    """Batches of training and evaluation; `draws.epoch` chooses the epoch of the next pass over `train`."""

    train: DataLoader[Any]
    draws: TrainDraws
    val: DataLoader[Any]


def make_loaders(context: StageContext, classes: tuple[str, ...]) -> Loaders:
    """Raises JobError when the batch does not fit the workers, DataError when it does not fit the images."""
    params: PretrainParams = context.params
    local_batch_size = _local_batch_size(params, context.world_size)
    root = data_folder(params.data, "imagenet")
    train, val = (load_index(root, split, classes) for split in ("train", "val"))
    if len(train) < params.batch_size:
        raise DataError(
            f"{train.root}: train holds {len(train)} images, less than batch_size = {params.batch_size}; lower it"
        )
    draws = TrainDraws(
        train, batch_size=params.batch_size, seed=context.seed, rank=context.rank, world_size=context.world_size
    )
    return Loaders(
        train=_loader(_train_images(train, context), draws, local_batch_size, context),
        draws=draws,
        val=make_val_loader(val, context, batch_size=local_batch_size),
    )


def make_val_loader(val: Index, context: StageContext, *, batch_size: int) -> DataLoader[Any]:
    """Batches of this rank's share of `val`, as evaluation sees them."""
    draws = ValDraws(len(val), rank=context.rank, world_size=context.world_size)
    return _loader(_val_images(val, context), draws, batch_size, context)


def _local_batch_size(params: PretrainParams, world_size: int) -> int:
    multiple = world_size * 2 if params.is_mixing else world_size
    if params.batch_size % multiple:
        why = "mixup and cutmix mix images in pairs" if params.is_mixing else "each worker gets an equal share"
        raise JobError(
            f"batch_size = {params.batch_size} is not a multiple of {multiple}, which {world_size} workers need since "
            f"{why}; change batch_size or resources.workers"
        )
    return params.batch_size // world_size


def recipe_of(params: PretrainParams, *, img_size: int) -> Recipe:
    """How training images are augmented, at a side of `img_size` pixels."""
    return Recipe(
        img_size=img_size,
        scale=params.scale,
        ratio=params.ratio,
        interpolation=params.interpolation,
        hflip=params.hflip,
        auto_augment=params.auto_augment,
        color_jitter=params.color_jitter,
        random_erasing=params.random_erasing,
        erasing_mode=params.erasing_mode,
        erasing_count=params.erasing_count,
    )


def _train_images(index: Index, context: StageContext) -> Images:
    params: PretrainParams = context.params
    augmentation = make_train_augmentation("reference", recipe_of(params, img_size=img_size_of(params.model)))
    return Images(index, augmentation.image, seed=context.seed, substitutes=params.max_broken_images)


def _val_images(index: Index, context: StageContext) -> Images:
    params: PretrainParams = context.params
    transform = eval_transform(
        img_size=img_size_of(params.model), crop_pct=params.crop_pct, interpolation=params.interpolation
    )
    return Images(index, transform, seed=context.seed, substitutes=0)


def _loader(images: Images, draws: Sampler[Draw], batch_size: int, context: StageContext) -> DataLoader[Any]:
    num_workers = context.params.loader_workers
    return DataLoader(
        images,
        batch_size=batch_size,
        sampler=draws,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=context.device != "cpu",
        persistent_workers=num_workers > 0,
        # A generator of its own: loaders would otherwise draw on the training loop's.
        generator=torch.Generator(),
    )
