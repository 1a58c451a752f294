"""The whole mmengine config of a segmentation stage but for its model: data, evaluator, optimizer and schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.openmmlab.draws import StreamDraws
from pipelines.openmmlab.recipe import LOAD_IMAGE, Config, cosine_end, optim_wrapper, train_loader, val_loader
from pipelines.segmentation.ade20k import Pairs, Split
from pipelines.segmentation.params import SegmentationParams


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
            sampler={"type": StreamDraws.__name__, "num_batches": params.max_iters},
            seed=seed,
            world_size=world_size,
        ),
        "optim_wrapper": optim_wrapper(params, device=device),
        "param_scheduler": _param_schedulers(params),
        **make_val_config(params, pairs=pairs["validation"], split_file=split_files["validation"], classes=classes),
    }


def make_val_config(params: SegmentationParams, *, pairs: Pairs, split_file: Path, classes: Sequence[str]) -> Config:
    """The part that measures: what an evaluation needs beside the model."""
    validation = _dataset(pairs, split_file, classes)
    return {
        "val_dataloader": val_loader(
            {**validation, "test_mode": True, "pipeline": _val_pipeline(params)}, num_workers=params.loader_workers
        ),
        # Over the process group: the other way needs a folder that all nodes share.
        "val_evaluator": {"type": "IoUMetric", "iou_metrics": ["mIoU"], "prefix": "seg", "collect_device": "gpu"},
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
        {"type": "LoadAnnotations"},
        {"type": "RandomResize", "scale": params.img_scale, "ratio_range": params.ratio_range, "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": (params.crop_size, params.crop_size), "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": params.flip_prob},
        *distortion,
        {"type": "PackSegInputs"},
    ]


def _val_pipeline(params: SegmentationParams) -> list[Config]:
    return [
        LOAD_IMAGE,
        {"type": "Resize", "scale": params.img_scale, "keep_ratio": True},
        # After the resize: predictions are compared with the label map at its own size.
        {"type": "LoadAnnotations"},
        {"type": "PackSegInputs"},
    ]


def _param_schedulers(params: SegmentationParams) -> list[Config]:
    warmup = {"type": "LinearLR", "start_factor": 1e-6, "by_epoch": False, "begin": 0, "end": params.warmup_iters}
    span: Config = {"by_epoch": False, "begin": params.warmup_iters, "end": params.max_iters}
    if params.schedule == "poly":
        decay = {"type": "PolyLR", "power": 1.0, "eta_min": params.min_lr, **span}
    else:
        length = params.max_iters - params.warmup_iters
        decay = {"type": "CosineAnnealingLR", "T_max": length, **span, **cosine_end(params)}
    return [warmup, decay] if params.warmup_iters > 1 else [decay]  # over one iteration mmengine's never rises
