"""The mmengine config of a segmentation stage, except its model: data, evaluator, optimizer and
schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.openmmlab.recipe import (
    LOAD_IMAGE,
    Config,
    cosine_end,
    optim_wrapper,
    train_loader,
    val_loader,
)
from pipelines.openmmlab.samplers import StreamSampler
from pipelines.segmentation.ade20k import Pairs, Split
from pipelines.segmentation.loading import LOAD_LABELS
from pipelines.segmentation.params import SegmentationParams
from pipelines.segmentation.scores import LabelMapScores


@dataclass(frozen=True)
class Kept:
    """The files that rank 0 writes in a validation, in addition to its scores."""

    directory: Path
    names: tuple[str, ...] | None
    """Names of the images whose predicted label maps are written; None: all images."""


def make_config(
    params: SegmentationParams,
    *,
    model: Config,
    pairs: Mapping[Split, Pairs],
    split_files: Mapping[Split, Path],
    classes: Sequence[str],
    seed: int,
    world_size: int,
    device: str,
) -> Config:
    training = _dataset(pairs["training"], split_files["training"], classes)
    return {
        "model": model,
        "train_dataloader": train_loader(
            {**training, "pipeline": _train_pipeline(params)},
            params,
            sampler={"type": StreamSampler.__name__, "num_batches": params.max_iters},
            seed=seed,
            world_size=world_size,
        ),
        "optim_wrapper": optim_wrapper(params, device=device),
        "param_scheduler": _param_schedulers(params),
        **make_val_config(
            params, pairs=pairs["validation"], split_file=split_files["validation"], classes=classes
        ),
    }


def make_val_config(
    params: SegmentationParams,
    *,
    pairs: Pairs,
    split_file: Path,
    classes: Sequence[str],
    pipeline: Sequence[Config] | None = None,
    kept: Kept | None = None,
) -> Config:
    """The config of a validation, without the model. `pipeline` replaces the pipeline of a
    training's validation."""
    validation = _dataset(pairs, split_file, classes)
    dataset = {**validation, "test_mode": True, "pipeline": list(pipeline or _val_pipeline(params))}
    # Over the process group, because the alternative needs a folder that all nodes share.
    evaluator: Config = {"type": LabelMapScores.__name__, "collect_device": "gpu"}
    if kept is not None:
        evaluator |= {
            "details_dir": str(kept.directory),
            "keep": kept.names if kept.names is None else [*kept.names],
        }
    return {
        "val_dataloader": val_loader(dataset, num_workers=params.loader_workers),
        "val_evaluator": evaluator,
    }


def _dataset(pairs: Pairs, split_file: Path, classes: Sequence[str]) -> Config:
    return {
        "type": "BaseSegDataset",
        "data_prefix": {"img_path": str(pairs.images_dir), "seg_map_path": str(pairs.labels_dir)},
        "ann_file": str(split_file),
        "img_suffix": pairs.suffix,
        "seg_map_suffix": ".png",
        "metainfo": {"classes": tuple(classes)},
        "reduce_zero_label": True,
    }


def _train_pipeline(params: SegmentationParams) -> list[Config]:
    distortion = [{"type": "PhotoMetricDistortion"}] if params.photometric_distortion else []
    return [
        LOAD_IMAGE,
        LOAD_LABELS,
        {
            "type": "RandomResize",
            "scale": params.img_scale,
            "ratio_range": params.ratio_range,
            "keep_ratio": True,
        },
        {
            "type": "RandomCrop",
            "crop_size": (params.crop_size, params.crop_size),
            "cat_max_ratio": 0.75,
        },
        {"type": "RandomFlip", "prob": params.flip_prob},
        *distortion,
        {"type": "PackSegInputs"},
    ]


def _val_pipeline(params: SegmentationParams) -> list[Config]:
    return [
        LOAD_IMAGE,
        {"type": "Resize", "scale": params.img_scale, "keep_ratio": True},
        # After the resize, because predictions are compared with the label map at its own size.
        LOAD_LABELS,
        {"type": "PackSegInputs"},
    ]


def _param_schedulers(params: SegmentationParams) -> list[Config]:
    warmup = {
        "type": "LinearLR",
        "start_factor": 1e-6,
        "by_epoch": False,
        "begin": 0,
        "end": params.warmup_iters,
    }
    span: Config = {"by_epoch": False, "begin": params.warmup_iters, "end": params.max_iters}
    if params.schedule == "poly":
        decay = {"type": "PolyLR", "power": 1.0, "eta_min": params.min_lr, **span}
    else:
        length = params.max_iters - params.warmup_iters
        decay = {"type": "CosineAnnealingLR", "T_max": length, **span, **cosine_end(params)}
    # mmengine's warm-up over one iteration never rises.
    return [warmup, decay] if params.warmup_iters > 1 else [decay]
