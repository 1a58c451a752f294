"""Makes the loaders of a pretraining stage: its images, this rank's share of them, and their
transforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.utils.data import Sampler

from orchestrator.contract import StageContext
from orchestrator.errors import DataError, JobError
from pipelines.imagenet.augmentation import make_train_augmentation
from pipelines.imagenet.dataset import Batch, Images, SampleIndex, TrainSampler, ValSampler
from pipelines.imagenet.loading import Loader
from pipelines.imagenet.source import ImageFiles, ImageSource
from pipelines.imagenet.subset import take_fraction
from pipelines.imagenet.transforms import Recipe, eval_transform
from pipelines.pretrain.params import PretrainParams


@dataclass(frozen=True)
class Loaders:
    """Batches for training and evaluation; `draws` chooses the next pass over `train`."""

    location: str
    """Where the images are, for messages."""
    train: Loader
    """Parts of batches; `accumulate` parts are this rank's share of an update."""
    draws: TrainSampler
    updates_per_epoch: int
    augment: Callable[[Batch], Tensor]
    """A batch of `train` on the device -> its normalised images (B, C, H, W)."""
    val: Loader


def make_loaders(context: StageContext, images: ImageFiles, classes: tuple[str, ...]) -> Loaders:
    """Make the loaders. Raises JobError if the batch does not fit the workers, DataError if it does
    not fit the images."""
    params: PretrainParams = context.params
    micro_batch_size = _part_size(params, context.world_size)
    train, val = _train_images(images, classes, params), images.source("val", classes)
    draws = TrainSampler(
        train,
        batch_size=params.batch_size,
        seed=context.seed,
        rank=context.rank,
        world_size=context.world_size,
    )
    augmentation = make_train_augmentation(params.augmentation, recipe_of(params))
    augmented = Images(
        train, augmentation.image, seed=context.seed, substitutes=params.max_broken_images
    )
    return Loaders(
        location=images.location,
        train=_loader(augmented, draws, micro_batch_size, context),
        draws=draws,
        updates_per_epoch=len(train) // params.batch_size,
        augment=augmentation.batch,
        val=make_val_loader(val, context, batch_size=micro_batch_size),
    )


def make_val_loader(val: ImageSource, context: StageContext, *, batch_size: int) -> Loader:
    """Batches of this rank's share of `val`, transformed for evaluation."""
    draws = ValSampler(len(val), rank=context.rank, world_size=context.world_size)
    return _loader(_val_images(val, context), draws, batch_size, context)


def _train_images(
    images: ImageFiles, classes: tuple[str, ...], params: PretrainParams
) -> ImageSource:
    """The part of train that is used; raises DataError if it does not fill a batch."""
    whole = images.source("train", classes)
    train = take_fraction(whole, params.data_fraction)
    if len(train) >= params.batch_size:
        return train
    if train is whole:
        held, what_to_do = f"{len(train)} images", "lower batch_size"
    else:
        held = (
            f"{len(whole)} images, of which data_fraction = {params.data_fraction:g} takes "
            f"{len(train)}"
        )
        what_to_do = "lower batch_size or raise data_fraction"
    raise DataError(
        f"{images.location}: train holds {held}, fewer than batch_size = {params.batch_size}; "
        f"{what_to_do}"
    )


def _part_size(params: PretrainParams, world_size: int) -> int:
    """Number of images in a part of a batch; raises JobError if the batch cannot be divided among
    `world_size` workers."""
    if params.fits_workers(world_size):
        return params.micro_batch_size(world_size)
    why = (
        "mixup and cutmix mix images in pairs"
        if params.is_mixing
        else "each worker gets an equal share"
    )
    raise JobError(
        f"batch_size = {params.batch_size} is not a multiple of "
        f"{params.batch_multiple(world_size)}, which {world_size} workers with accumulate = "
        f"{params.accumulate} need because {why}; change batch_size, accumulate or "
        "resources.workers"
    )


def recipe_of(params: PretrainParams) -> Recipe:
    """The augmentation of training images, from the params."""
    return Recipe(
        img_size=params.input_size,
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


def _val_images(source: ImageSource, context: StageContext) -> Images:
    params: PretrainParams = context.params
    transform = eval_transform(
        img_size=params.input_size, crop_pct=params.crop_pct, interpolation=params.interpolation
    )
    return Images(source, transform, seed=context.seed, substitutes=0)


def _loader(
    images: Images, draws: Sampler[SampleIndex], batch_size: int, context: StageContext
) -> Loader:
    return Loader(
        images,
        draws,
        batch_size=batch_size,
        num_workers=context.params.loader_workers,
        pin_memory=context.device != "cpu",
    )
