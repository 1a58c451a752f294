"""Builds our model from the reference implementation's keyword arguments and state_dict.

The reference ends a stage with the downsampling that begins our next one, keeps the three blocks of a group in three
lists, stores the index of the relative position bias, and lays `ape` out in two ways.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cat_model.config import CatConfig
from cat_model.model import Cat, CatBackbone, Trunk
from cat_model.weights import check_fit, fill

_OURS = {
    "patch_size": "window_size",  # the reference calls an attention window a patch
    "patch_emb_size": "patch_size",
    "pre_trained_img_size": "img_size",
} | {
    name: name
    for name in (
        "img_size", "in_chans", "embed_dim", "depths", "num_heads", "mlp_ratio", "qkv_bias", "qk_scale",
        "drop_rate", "drop_path_rate", "ape", "patch_norm",
    )
}  # fmt: skip
_ATTN_DROPS = ("ipsa_attn_drop", "cpsa_attn_drop")
_OF_THE_MODEL = ("num_classes", "out_indices", "slice_emb")
_WITHOUT_EFFECT = ("use_checkpoint", "frozen_stages")  # on tensors and outputs


def from_reference(
    kwargs: Mapping[str, Any], state_dict: Mapping[str, Tensor], *, backbone: bool = False
) -> Cat | CatBackbone:
    """Our model with the reference's weights, from what its constructor was given.

    Raises ValueError for keyword arguments that our model cannot follow, WeightsError for tensors that do not fit
    (in the reference's names).
    """
    config = config_from_reference(kwargs)
    model = _make_on_meta(config, kwargs, backbone=backbone)
    wanted = {reference_name(name): tensor for name, tensor in model.state_dict().items()}
    with torch.device("meta"):
        all_stages = Trunk(config, num_stages=len(config.depths)).state_dict()
    unbuilt = {reference_name(name) for name in all_stages} - wanted.keys()
    given = {
        name: as_map(tensor, config) if name == "ape" else tensor
        for name, tensor in state_dict.items()
        if name not in unbuilt and not name.endswith("relative_position_index")
    }
    check_fit(wanted, given, source=f"the reference's state_dict and a {type(model).__name__}")
    return fill(model, {name: given[reference_name(name)] for name in model.state_dict()})


def config_from_reference(kwargs: Mapping[str, Any]) -> CatConfig:
    """The config that the reference's keyword arguments (of classifier or backbone) describe."""
    known = (*_OURS, *_ATTN_DROPS, *_OF_THE_MODEL, *_WITHOUT_EFFECT)
    unknown = sorted(set(kwargs) - set(known))
    if unknown:
        raise ValueError(f"kwargs {', '.join(unknown)} are none of the reference's: {', '.join(known)}")
    absent = [name for name in ("embed_dim", "depths", "num_heads", "ape") if name not in kwargs]
    if absent:
        raise ValueError(f"kwargs must say {', '.join(absent)}: got {', '.join(kwargs)}")
    fields = {_OURS[name]: value for name, value in kwargs.items() if name in _OURS}
    fields["patch_size"] = _as_side(fields.get("patch_size", 4))
    fields["attn_drop_rate"] = _attn_drop(kwargs)
    if kwargs.get("slice_emb", False):
        fields |= _slice_fields(fields)
    return CatConfig.from_dict(fields)


def reference_name(name: str) -> str:
    """The reference's name of our tensor `name`."""
    if match := re.fullmatch(r"stages\.(\d+)\.downsample\.(.+)", name):
        return f"layers.{int(match[1]) - 1}.downsample.{match[2]}"
    if match := re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.(\w+)\.(.+)", name):
        return f"layers.{match[1]}.{match[3]}_blocks.{match[2]}.{match[4]}"
    return name.replace("head.fc.", "head.")


def _make_on_meta(config: CatConfig, kwargs: Mapping[str, Any], *, backbone: bool) -> Cat | CatBackbone:
    with torch.device("meta"):
        if backbone:
            return CatBackbone(config, out_indices=kwargs.get("out_indices", range(len(config.depths))))
        return Cat(config, num_classes=kwargs.get("num_classes", 1000))


def as_map(ape: Tensor, config: CatConfig) -> Tensor:
    """ape_1HWC from the backbone's (1, C, H, W) or the classifier's (1, H W, C); others as they are, for check_fit."""
    if ape.ndim == 4:
        return ape.permute(0, 2, 3, 1)
    height, width = config.map_hw
    return ape.view(1, height, width, -1) if ape.ndim == 3 and ape.shape[1] == height * width else ape


def _as_side(patch_emb_size: int | Sequence[int]) -> int:
    sides = {patch_emb_size} if isinstance(patch_emb_size, int) else set(patch_emb_size)
    if len(sides) != 1:
        raise ValueError(f"patch_emb_size must be square, got {patch_emb_size}")
    return sides.pop()


def _attn_drop(kwargs: Mapping[str, Any]) -> float:
    rates = {float(kwargs.get(name, 0.0)) for name in _ATTN_DROPS}
    if len(rates) != 1:
        raise ValueError(f"{' and '.join(_ATTN_DROPS)} must be equal: CatConfig has one attn_drop_rate, got {rates}")
    return rates.pop()


def _slice_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The reference's slice embedding runs only when told the size after slicing, with patches of 1."""
    if fields["patch_size"] != 1:
        raise ValueError(f"patch_emb_size must be 1 with slice_emb, got {fields['patch_size']}")
    img_size = fields.get("img_size", 56)
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    return {"patch_embed": "slice", "patch_size": 4, "img_size": (4 * height, 4 * width)}
