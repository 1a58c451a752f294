"""Builds our model from the reference implementation's keyword arguments and state_dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from cat_model.backbone import CatBackbone
from cat_model.config import CatConfig
from cat_model.model import Cat
from cat_model.trunk import Trunk
from cat_model.weights.fitting import Allowance, fit
from cat_model.weights.layouts import parse_weights
from cat_model.weights.load import fill

_OURS = {
    "patch_size": "window_size",  # the reference calls an attention window a patch
    "patch_emb_size": "patch_size",
    "pre_trained_img_size": "img_size",
} | {
    name: name
    for name in (
        "img_size", "in_chans", "embed_dim", "depths", "num_heads", "mlp_ratio", "qkv_bias",
        "qk_scale", "drop_rate", "drop_path_rate", "ape", "patch_norm",
    )
}  # fmt: skip
_ATTN_DROPS = ("ipsa_attn_drop", "cpsa_attn_drop")
_OF_THE_MODEL = ("num_classes", "out_indices", "slice_emb")
_WITHOUT_EFFECT = ("use_checkpoint", "frozen_stages")  # on tensors and outputs


def from_reference(
    kwargs: Mapping[str, Any], state_dict: Mapping[str, Any], *, backbone: bool = False
) -> Cat | CatBackbone:
    """Our model with the reference's weights, from the arguments of the reference's constructor.

    `state_dict` may be wrapped or prefixed, may hold index buffers, and may use the reference's
    layout or ours. Raises ValueError for keyword arguments that our model does not support. Raises
    WeightsError, in the original names, for tensors that do not fit. None may be missing or left
    over, except the stages after the last of a backbone's `out_indices`.
    """
    config = config_from_reference(kwargs)
    model = _make_on_meta(config, kwargs, backbone=backbone)
    wanted = model.state_dict()
    with torch.device("meta"):
        all_stages = Trunk(config, num_stages=len(config.depths)).state_dict()
    unbuilt = Allowance(unexpected=frozenset(all_stages.keys() - wanted.keys()))
    source = "the reference's state_dict"
    weights = parse_weights(state_dict, map_hw=config.map_hw, source=source)
    fitted = fit(wanted, weights, source=f"{source} and a {type(model).__name__}", allow=unbuilt)
    return fill(model, fitted.tensors)


def config_from_reference(kwargs: Mapping[str, Any]) -> CatConfig:
    """The config described by the reference's keyword arguments (of classifier or backbone)."""
    known = (*_OURS, *_ATTN_DROPS, *_OF_THE_MODEL, *_WITHOUT_EFFECT)
    unknown = sorted(set(kwargs) - set(known))
    if unknown:
        raise ValueError(
            f"unknown kwargs {', '.join(unknown)}; the reference has {', '.join(known)}"
        )
    absent = [name for name in ("embed_dim", "depths", "num_heads", "ape") if name not in kwargs]
    if absent:
        raise ValueError(f"kwargs lack {', '.join(absent)}; got {', '.join(kwargs)}")
    fields = {_OURS[name]: value for name, value in kwargs.items() if name in _OURS}
    fields["patch_size"] = _as_side(fields.get("patch_size", 4))
    fields["attn_drop_rate"] = _attn_drop(kwargs)
    if kwargs.get("slice_emb", False):
        fields |= _slice_fields(fields)
    return CatConfig.from_dict(fields)


def _make_on_meta(
    config: CatConfig, kwargs: Mapping[str, Any], *, backbone: bool
) -> Cat | CatBackbone:
    with torch.device("meta"):
        if backbone:
            return CatBackbone(
                config, out_indices=kwargs.get("out_indices", range(len(config.depths)))
            )
        return Cat(config, num_classes=kwargs.get("num_classes", 1000))


def _as_side(patch_emb_size: int | Sequence[int]) -> int:
    sides = {patch_emb_size} if isinstance(patch_emb_size, int) else set(patch_emb_size)
    if len(sides) != 1:
        raise ValueError(f"patch_emb_size must be square, got {patch_emb_size}")
    return sides.pop()


def _attn_drop(kwargs: Mapping[str, Any]) -> float:
    rates = {float(kwargs.get(name, 0.0)) for name in _ATTN_DROPS}
    if len(rates) != 1:
        raise ValueError(
            f"{' and '.join(_ATTN_DROPS)} must be equal: CatConfig has one attn_drop_rate, got "
            f"{rates}"
        )
    return rates.pop()


def _slice_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Config fields for the reference's slice embedding, which expects the size after slicing, and
    patches of 1."""
    if fields["patch_size"] != 1:
        raise ValueError(f"patch_emb_size must be 1 with slice_emb, got {fields['patch_size']}")
    img_size = fields.get("img_size", 56)
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    return {"patch_embed": "slice", "patch_size": 4, "img_size": (4 * height, 4 * width)}
