"""`python -m benchmarks.downstream_rival SETTINGS`: a training by mmengine's Runner.

It is the rival of benchmarks.downstream_overhead. Like tools/train.py of mmdet and mmseg, it runs
`Runner.from_cfg(config).train()` in a plain process, with the Runner's default hooks. The config is
ours: the same model, data, pipeline and schedule. SETTINGS is a JSON file with the `kind`, the
`params` of its stage, the `checkpoint` and a `work_dir`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.data.folder import data_folder
from pipelines.detection.annotations.coco import checked_file, read_annotations
from pipelines.detection.annotations.usage import Split as DetectionSplit
from pipelines.detection.config import make_config as make_detection_config
from pipelines.detection.model import make_model
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.backbone import read_pretrained
from pipelines.openmmlab.library import Config, Runner, Scope, load_library
from pipelines.openmmlab.recipe import backbone
from pipelines.segmentation.ade20k import Split, read_classes, read_pairs, write_split
from pipelines.segmentation.config import make_config as make_segmentation_config
from pipelines.segmentation.params import SegmentationParams
from pipelines.segmentation.semantic_fpn import model as semantic_fpn

SCOPES: Mapping[str, Scope] = {"detection": "mmdet", "segmentation": "mmseg"}


def main(settings: Mapping[str, Any]) -> None:
    kind, work_dir = settings["kind"], Path(settings["work_dir"])
    load_library(SCOPES[kind])
    config, loop = {"detection": _detection, "segmentation": _segmentation}[kind](
        settings, work_dir
    )
    whole = {
        **config,
        "default_scope": SCOPES[kind],
        "work_dir": str(work_dir),
        "train_cfg": loop,
        "val_cfg": {"type": "ValLoop"},
        "log_processor": {
            "type": "LogProcessor",
            "window_size": 50,
            "by_epoch": kind == "detection",
        },
        # Our side, too, writes its checkpoint after the measurement.
        "default_hooks": {"checkpoint": None},
        "randomness": {"seed": 0},
    }
    Runner.from_cfg(Config(whole)).train()


def _detection(
    settings: Mapping[str, Any], work_dir: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    params = DetectionParams.model_validate_json(json.dumps(settings["params"]))
    root = data_folder(params.data, "coco")
    splits: tuple[DetectionSplit, ...] = ("train", "val")
    files = {split: read_annotations(root, split) for split in splits}
    classes = files["train"].classes
    cat = read_pretrained(Path(settings["checkpoint"]), drop_path_rate=params.drop_path_rate).config
    model = make_model(
        params,
        backbone=backbone(cat.to_dict(), settings["checkpoint"]),
        widths=cat.dims,
        num_classes=len(classes),
    )
    config = make_detection_config(
        params,
        model=model,
        annotations={
            split: checked_file(file, [], work_dir / f"instances_{split}.json")
            for split, file in files.items()
        },
        classes=classes,
        seed=0,
        world_size=1,
        device="cpu",
    )
    return config, {
        "type": "EpochBasedTrainLoop",
        "max_epochs": params.epochs,
        "val_interval": params.epochs,
    }


def _segmentation(
    settings: Mapping[str, Any], work_dir: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    params = SegmentationParams.model_validate_json(json.dumps(settings["params"]))
    root = data_folder(params.data, "ade20k")
    classes = read_classes(root, None)
    splits: tuple[Split, ...] = ("training", "validation")
    pairs = {split: read_pairs(root, split) for split in splits}
    cat = read_pretrained(Path(settings["checkpoint"]), drop_path_rate=params.drop_path_rate).config
    model = semantic_fpn(
        params,
        backbone=backbone(cat.to_dict(), settings["checkpoint"]),
        widths=cat.dims,
        num_classes=len(classes),
        device="cpu",
    )
    config = make_segmentation_config(
        params,
        model=model,
        pairs=pairs,
        split_files={
            split: write_split(pairs[split], [], work_dir / f"{split}.txt") for split in splits
        },
        classes=classes,
        seed=0,
        world_size=1,
        device="cpu",
    )
    return config, {
        "type": "IterBasedTrainLoop",
        "max_iters": params.max_iters,
        "val_interval": params.max_iters,
    }


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
