"""Learning rates that mmengine's own schedulers compute from the configs of both kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.detection.annotations.coco import CheckedFile
from pipelines.detection.config import make_config as detection_config
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.library import quiet_import
from pipelines.segmentation.ade20k import Pairs
from pipelines.segmentation.config import make_config as segmentation_config
from pipelines.segmentation.params import SegmentationParams

with quiet_import():
    from mmengine.registry import PARAM_SCHEDULERS

LR = 1e-3
NUM_ITERS = 10
COMMON: dict[str, Any] = {"backbone": "p.checkpoint", "data": "/data", "lr": LR, "batch_size": 1}


def _rates(schedulers: list[dict[str, Any]]) -> list[float]:
    """The rate of each of ten iterations, all of one epoch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    context = {"optimizer": optimizer, "epoch_length": NUM_ITERS}
    built: list[Any] = [
        PARAM_SCHEDULERS.build(dict(config), default_args=context) for config in schedulers
    ]
    rates = []
    for _ in range(NUM_ITERS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in built:
            if not scheduler.by_epoch:
                scheduler.step()
    return rates


def _detection(warmup_iters: int) -> list[float]:
    params = DetectionParams(method="mask_rcnn", warmup_iters=warmup_iters, **COMMON)
    annotations: Any = {
        "train": CheckedFile(Path("/t.json"), 1),
        "val": CheckedFile(Path("/v.json"), 1),
    }
    config = detection_config(
        params,
        model={},
        annotations=annotations,
        classes=("a",),
        seed=0,
        world_size=1,
        device="cpu",
    )
    return _rates(config["param_scheduler"])


def _segmentation(warmup_iters: int) -> list[float]:
    params = SegmentationParams(
        method="semantic_fpn", warmup_iters=warmup_iters, max_iters=1000, **COMMON
    )
    pairs: Any = dict.fromkeys(
        ("training", "validation"), Pairs(Path("/i"), Path("/l"), ("a",), ".png")
    )
    files: Any = dict.fromkeys(("training", "validation"), Path("/s.txt"))
    config = segmentation_config(
        params,
        model={},
        pairs=pairs,
        split_files=files,
        classes=("a",),
        seed=0,
        world_size=1,
        device="cpu",
    )
    return _rates(config["param_scheduler"])


@pytest.mark.parametrize("warmup_iters", [0, 1, 2, 5])
@pytest.mark.parametrize("rates_of", [_detection, _segmentation])
def test_lr_after_the_warmup_is_the_requested_one(rates_of: Any, warmup_iters: int) -> None:
    rates = rates_of(warmup_iters)
    assert rates[warmup_iters:] == pytest.approx([LR] * (NUM_ITERS - warmup_iters), rel=0.01)
    assert all(rate < LR for rate in rates[: max(warmup_iters - 1, 0)])
