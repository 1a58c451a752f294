"""The names by which `timm.create_model` finds the published CATs, and what it needs to build and
load them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor

from cat_model.config import CONFIGS, CatConfig
from cat_model.embedding import resize_ape
from cat_model.model import Cat
from cat_model.weights.layouts import to_ours

_FIELDS = frozenset(field.name for field in fields(CatConfig))

default_cfgs = generate_default_cfgs(
    {
        name: {
            "url": "",  # the authors' links no longer work, and we publish no weights
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "patch_embed.proj",
            "classifier": "head.fc",
            "license": "apache-2.0",
            "paper_name": "CAT: Cross Attention in Vision Transformer",
            "paper_ids": "arXiv:2106.05786",
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


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: Cat) -> dict[str, Tensor]:
    """The tensors of any known layout, with the names and sizes of `model`. Raises WeightsError."""
    tensors = to_ours(state_dict, map_hw=model.config.map_hw)
    if "ape" in tensors and model.ape is not None:
        tensors["ape"] = resize_ape(tensors["ape"], model.config.map_hw)
    return tensors


def _create(name: str, *, pretrained: bool, **kwargs: Any) -> Cat:
    if kwargs.get("feature_cls") in ("list", "dict"):
        # timm's FeatureListNet runs the children of a model. The position embedding is not a child,
        # so it would be lost
        raise ValueError(
            "feature_cls must be 'getter' (the default), 'hook' or 'fx', got "
            f"{kwargs['feature_cls']!r}"
        )
    model: Cat = build_model_with_cfg(
        _build,
        name,
        pretrained,
        model_cfg=CONFIGS[name],
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **kwargs,
    )
    return model


def _build(
    cfg: CatConfig,
    *,
    num_classes: int = 1000,
    global_pool: str = "avg",
    dynamic_img_size: bool = True,
    strict_img_size: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **changes: Any,
) -> Cat:
    """Builds a Cat; `changes` are fields of CatConfig. timm's two image size switches accept one
    value: any size."""
    if strict_img_size or not dynamic_img_size:
        raise ValueError(
            "strict_img_size must be False and dynamic_img_size True: a CAT takes images of any "
            "size"
        )
    unknown = sorted(changes.keys() - _FIELDS)
    if unknown:
        raise TypeError(
            f"unknown CAT fields {', '.join(unknown)}; known: {', '.join(sorted(_FIELDS))}"
        )
    with torch.device(device or torch.get_default_device()):
        return Cat(replace(cfg, **changes), num_classes=num_classes, global_pool=global_pool).to(
            dtype
        )


for entry in (cat_tiny, cat_small, cat_base):
    register_model(entry)
