"""Every detector really trains on scenes of two squares until it finds some of them. One detector
trains for two epochs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator.contract import StageResult
from pipelines.detection.params import DetectionParams
from pipelines.detection.train import run
from pipelines.detection.traits import METHODS, MethodName
from pipelines.training.metrics import TRAINING
from tests.pipelines.openmmlab.harness import (
    PX,
    Recorder,
    make_context,
    save_toy_checkpoint,
    scores_of,
    write_coco,
)


def _train(
    root: Path, method: MethodName, *, has_polygons: bool, **fields: Any
) -> tuple[StageResult, Recorder]:
    data = write_coco(root / "coco", has_polygons=has_polygons)
    recorder = Recorder(root)
    small = {"fc_channels": 32, "num_rois": 16} if METHODS[method].settings.num_rois else {}
    common = {
        "backbone": "p.checkpoint",
        "data": str(data),
        "loader_workers": 0,
        "img_scale": (PX, PX),
    }
    recipe = {
        "batch_size": 4,
        "warmup_iters": 2,
        "lr": 2e-3,
        "clip_grad": 5.0,
        "flip_prob": 0.0,
        "channels": 32,
    }
    params = DetectionParams(**{"method": method, **common, **recipe, **small, **fields})
    return run(make_context(recorder, params, save_toy_checkpoint(root / "pretrained"))), recorder


def test_a_box_method_trains_without_polygons(tmp_path: Path) -> None:
    result, recorder = _train(tmp_path, "fcos", has_polygons=False, multi_scale=True, epochs=2)
    assert [metric.name for metric in result.metrics] == [
        "box_map",
        "box_map50",
        "params_m",
        "flops_g",
        *TRAINING,
    ]
    assert [set(metrics) for metrics in recorder.metrics] == [
        {"epoch", "loss", "box_map", "box_map50"}
    ] * 2
    assert all(math.isfinite(value) for metrics in recorder.metrics for value in metrics.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("mask_rcnn", {}),
        ("mask_rcnn", {"multi_scale": True}),
        (
            "retinanet",
            {"anchor_scale": 3.0},
        ),  # 24 pixels at the finest level, as large as the squares
        ("fcos", {}),
        ("atss", {}),
        ("cascade_rcnn", {}),
        ("cascade_rcnn", {"multi_scale": True}),
    ],
)
def test_every_method_learns_to_detect_objects(
    method: MethodName, fields: dict[str, Any], tmp_path: Path
) -> None:
    recipe = {
        "schedule": "cosine",
        "epochs": 32,
        "val_every": 32,
        "checkpoint_every": 32,
        "drop_path_rate": 0.0,
    }
    result, recorder = _train(tmp_path, method, has_polygons=True, **recipe, **fields)
    values = scores_of(result)
    assert tuple(values) == METHODS[method].metrics
    assert math.isfinite(recorder.metrics[-1]["loss"])
    assert min(values["box_map50"], values.get("mask_map50", 100)) > 5  # untrained: below 1
