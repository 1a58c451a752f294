"""The loss of a batch compared with timm's mixing and losses, and the timm argument of each
param."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from pipelines.pretrain.criterion import Criterion
from pipelines.pretrain.data import recipe_of
from tests.pipelines.pretrain.conftest import make_params

NUM_CLASSES = 5
TIMMS_NAMES = {
    **{
        "mixup": "mixup_alpha",
        "cutmix": "cutmix_alpha",
        "mixup_prob": "prob",
        "mixup_switch_prob": "switch_prob",
    },
    **{"mixup_mode": "mode", "label_smoothing": "label_smoothing"},
}


@pytest.fixture
def batch() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network, images (8, 3, 6, 6) and their labels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, NUM_CLASSES))
    return model, torch.randn(8, 3, 6, 6), torch.arange(8) % NUM_CLASSES


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mixup": 0.3},
        {"cutmix": 0.2},
        {"mixup_prob": 0.4},
        {"mixup_switch_prob": 0.9},
        {"mixup_mode": "elem"},
        {"mixup_mode": "pair"},
        {"label_smoothing": 0.3},
        {"cutmix": 0},
    ],
    ids=str,
)
def test_mixed_batch_has_the_loss_of_timms_parts(batch: Any, changes: dict[str, Any]) -> None:
    model, images, labels = batch
    reference = {
        "mixup_alpha": 0.8,
        "cutmix_alpha": 1.0,
        "prob": 1.0,
        "switch_prob": 0.5,
        "mode": "batch",
    }
    changed = {TIMMS_NAMES[name]: value for name, value in changes.items()}
    rival = Mixup(**{**reference, "label_smoothing": 0.1, **changed}, num_classes=NUM_CLASSES)
    criterion = Criterion(make_params(Path("/data"), **changes), num_classes=NUM_CLASSES)
    for seed in range(8):
        np.random.seed(seed)
        mixed, targets = rival(images.clone(), labels)
        expected = SoftTargetCrossEntropy()(model(mixed), targets)
        np.random.seed(seed)
        torch.testing.assert_close(criterion(model, images.clone(), labels), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_plain_batch_has_smoothed_labels(batch: Any, smoothing: float) -> None:
    params = make_params(Path("/data"), mixup=0, cutmix=0, label_smoothing=smoothing)
    model, images, labels = batch
    expected = LabelSmoothingCrossEntropy(smoothing)(model(images), labels)
    torch.testing.assert_close(
        Criterion(params, num_classes=NUM_CLASSES)(model, images, labels), expected
    )


def test_each_augmentation_param_takes_effect() -> None:
    changes: dict[str, Any] = {
        **{
            "scale": [0.5, 0.9],
            "ratio": [1.0, 1.5],
            "interpolation": "bilinear",
            "hflip": 0.2,
            "auto_augment": None,
        },
        **{"color_jitter": 0.3, "random_erasing": 0.1, "erasing_mode": "rand", "erasing_count": 2},
    }
    recipe = asdict(recipe_of(make_params(Path("/data"), img_size=56, **changes)))
    assert recipe.keys() == {"img_size", *changes}
    assert {
        name: list(value) if isinstance(value, tuple) else value for name, value in recipe.items()
    } == {
        "img_size": 56,
        **changes,
    }
