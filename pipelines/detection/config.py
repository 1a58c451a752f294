"""The mmengine config of a detection stage, except its model: data, evaluator, optimizer and
schedule.

Includes the multi-scale training of DETR and Sparse R-CNN, which the rows published with a plus
use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from pipelines.data.folder import data_folder
from pipelines.detection.annotations.coco import CheckedFile
from pipelines.detection.annotations.faults import MIN_SIDE
from pipelines.detection.annotations.usage import Split
from pipelines.detection.dataset import CountedCoco
from pipelines.detection.params import DetectionParams
from pipelines.detection.scores import CocoScores
from pipelines.openmmlab.recipe import (
    LOAD_IMAGE,
    Config,
    cosine_end,
    optim_wrapper,
    train_loader,
    val_loader,
)
from pipelines.openmmlab.samplers import EpochSampler


def make_config(
    params: DetectionParams,
    *,
    model: Config,
    annotations: Mapping[Split, CheckedFile],
    classes: Sequence[str],
    seed: int,
    world_size: int,
    device: str,
) -> Config:
    return {
        "model": model,
        "train_dataloader": train_loader(
            _train_dataset(params, annotations["train"], classes),
            params,
            sampler={"type": EpochSampler.__name__},
            seed=seed,
            world_size=world_size,
        ),
        "optim_wrapper": optim_wrapper(params, device=device),
        # mmengine's warm-up over one iteration never rises: lr would stay at a thousandth.
        "param_scheduler": [
            *([_warmup(params)] if params.warmup_iters > 1 else []),
            _decay(params),
        ],
        **make_val_config(params, annotations=annotations["val"], classes=classes),
    }


def make_val_config(
    params: DetectionParams,
    *,
    annotations: CheckedFile,
    classes: Sequence[str],
    details_dir: Path | None = None,
) -> Config:
    """The config of a validation, without the model. Rank 0 writes to `details_dir`, if given."""
    return {
        "val_dataloader": val_loader(
            _val_dataset(params, annotations.path, classes), num_workers=params.loader_workers
        ),
        "val_evaluator": {
            "type": CocoScores.__name__,
            "ann_file": str(annotations.path),
            "num_objects": annotations.num_objects,
            "has_masks": params.traits.has_masks,
            "details_dir": None if details_dir is None else str(details_dir),
            # Over the process group, because the alternative needs a folder that all nodes share.
            "collect_device": "gpu",
        },
    }


def _train_dataset(
    params: DetectionParams, annotations: CheckedFile, classes: Sequence[str]
) -> Config:
    pipeline = [
        LOAD_IMAGE,
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": params.traits.has_masks},
        *_augmentation(params),
        {"type": "PackDetInputs"},
    ]
    return {
        **_dataset(params, annotations.path, "train", classes),
        "type": CountedCoco.__name__,
        "num_objects": annotations.num_objects,
        "filter_cfg": {"filter_empty_gt": True, "min_size": MIN_SIDE},
        "pipeline": pipeline,
    }


def _val_dataset(params: DetectionParams, annotations: Path, classes: Sequence[str]) -> Config:
    meta_keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    pipeline = [
        LOAD_IMAGE,
        _resize(params),
        {"type": "PackDetInputs", "meta_keys": meta_keys},
    ]
    return {
        **_dataset(params, annotations, "val", classes),
        "test_mode": True,
        "pipeline": pipeline,
    }


def _augmentation(params: DetectionParams) -> list[Config]:
    flip: Config = {"type": "RandomFlip", "prob": params.flip_prob}
    if not params.multi_scale:
        return [_resize(params), flip]
    return [flip, multi_scale(long=max(params.img_scale), short=min(params.img_scale))]


def _resize(params: DetectionParams) -> Config:
    return {"type": "Resize", "scale": params.img_scale, "keep_ratio": True}


def _dataset(
    params: DetectionParams, annotations: Path, split: Split, classes: Sequence[str]
) -> Config:
    return {
        "type": "CocoDataset",
        "ann_file": str(annotations),
        "data_prefix": {"img": str(data_folder(params.data, "coco", split) / f"{split}2017")},
        "metainfo": {"classes": tuple(classes)},
    }


def _warmup(params: DetectionParams) -> Config:
    return {
        "type": "LinearLR",
        "start_factor": 1e-3,
        "by_epoch": False,
        "begin": 0,
        "end": params.warmup_iters,
    }


def _decay(params: DetectionParams) -> Config:
    if params.schedule == "step":
        return {
            "type": "MultiStepLR",
            "by_epoch": True,
            "begin": 0,
            "end": params.epochs,
            "milestones": list(params.steps),
            "gamma": 0.1,
        }
    return {
        "type": "CosineAnnealingLR",
        "by_epoch": True,
        "begin": 0,
        "end": params.epochs,
        "T_max": params.epochs,
        **cosine_end(params),
        "convert_to_iter_based": True,
    }


PUBLISHED_SHORT = 800
"""The published short side in pixels. The lengths below are for this side and scale with it."""
SHORT_SIDES = tuple(range(480, 801, 32))
SHORT_SIDES_TO_CROP = (400, 500, 600)
CROP_SIDES = (384, 600)
"""Smallest and largest height and width of a crop."""


def multi_scale(*, long: int, short: int) -> Config:
    """Resizes an image at random. Half of the time it first resizes and crops the image. `long`
    always limits the long side."""
    ratio = Fraction(short, PUBLISHED_SHORT)
    resize = _random_resize(long, (round(side * ratio) for side in SHORT_SIDES))
    resize_to_crop = _random_resize(long, (round(side * ratio) for side in SHORT_SIDES_TO_CROP))
    crop = {
        "type": "RandomCrop",
        "crop_type": "absolute_range",
        "crop_size": tuple(round(side * ratio) for side in CROP_SIDES),
        "allow_negative_crop": True,
    }
    return {"type": "RandomChoice", "transforms": [[resize], [resize_to_crop, crop, resize]]}


def _random_resize(long: int, short_sides: Iterable[int]) -> Config:
    return {
        "type": "RandomChoiceResize",
        "scales": [(short, long) for short in short_sides],
        "keep_ratio": True,
    }
