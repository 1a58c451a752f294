"""The names under which `timm.create_model` finds the published CATs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from cat_model.config import CONFIGS, CatConfig
from cat_model.model import Cat

default_cfgs = generate_default_cfgs(
    {
        name: {
            "url": "",  # the authors' links are gone, and no weights of ours are published
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "patch_embed.proj",
            "classifier": "head.fc",
        }
        for name in CONFIGS
    }
)


def cat_tiny(pretrained: bool = False, **kwargs: Any) -> Cat:
    """CAT-T: 17 M parameters, 2.8 G multiply-adds at 224 x 224."""
    return _create("cat_tiny", pretrained=pretrained, **kwargs)


def cat_small(pretrained: bool = False, **kwargs: Any) -> Cat:
    """CAT-S: 37 M parameters, 6.1 G multiply-adds at 224 x 224."""
    return _create("cat_small", pretrained=pretrained, **kwargs)


def cat_base(pretrained: bool = False, **kwargs: Any) -> Cat:
    """CAT-B: 52 M parameters, 8.9 G multiply-adds at 224 x 224."""
    return _create("cat_base", pretrained=pretrained, **kwargs)


def _create(name: str, *, pretrained: bool, **kwargs: Any) -> Cat:
    model: Cat = build_model_with_cfg(_build, name, pretrained, model_cfg=CONFIGS[name], **kwargs)
    return model


def _build(cfg: CatConfig, *, num_classes: int = 1000, global_pool: str = "avg", **fields: Any) -> Cat:
    """`fields` are those of CatConfig."""
    if global_pool != "avg":
        raise ValueError(f"global_pool must be 'avg', got {global_pool!r}")
    return Cat(replace(cfg, **fields), num_classes=num_classes)


for entry in (cat_tiny, cat_small, cat_base):
    register_model(entry)
