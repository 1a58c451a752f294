"""Converts a state_dict of any known layout to our names and shapes.

The known layouts are the reference's classifier and backbone and our own, bare or wrapped, with the
prefixes that DDP, torch.compile and detectors add to names. Pure: this module reads no files and
makes no models.

The reference's layout differs from ours in four ways. It ends a stage with the downsampling that
begins our next one. It keeps the three blocks of a group in three lists. It stores the index of the
relative position bias. It lays `ape` out in two ways.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cat_model.errors import WeightsError

WRAPPERS = ("model", "state_dict", "state_dict_ema", "model_ema")
"""Keys under which files store a state_dict, best first: averaged weights are used only if the
plain ones are absent."""
_DEEPEST = 3  # levels of nested wrappers; a mapping that contains itself would never end
_PREFIXES = re.compile(r"^((module|backbone|model|_orig_mod)\.)+")
_INDEX = "relative_position_index"
_NUMBER = r"(\d{1,4})"  # int() refuses numbers with thousands of digits
_THEIR_DOWNSAMPLE = re.compile(rf"layers\.{_NUMBER}\.downsample\.(.+)")
_THEIR_BLOCK = re.compile(rf"layers\.{_NUMBER}\.(pre_ipsa|cpsa|post_ipsa)_blocks\.{_NUMBER}\.(.+)")
_OUR_DOWNSAMPLE = re.compile(rf"stages\.{_NUMBER}\.downsample\.(.+)")
_OUR_BLOCK = re.compile(rf"stages\.{_NUMBER}\.blocks\.{_NUMBER}\.(pre_ipsa|cpsa|post_ipsa)\.(.+)")


@dataclass(frozen=True)
class Weights:
    """A state_dict by our names: `ape` is (1, H, W, C), and the index buffers are removed."""

    tensors: Mapping[str, Tensor]
    sources: Mapping[str, str]
    """Our name -> the tensor's original name."""
    dropped: tuple[str, ...]
    """The index buffers, by their original names: our model computes them."""
    is_reference: bool

    def original_name(self, name: str) -> str:
        """The name that the author of the state_dict uses for our `name`."""
        return self.sources.get(name) or (reference_name(name) if self.is_reference else name)


def to_ours(content: Mapping[str, Any], *, map_hw: tuple[int, int]) -> dict[str, Tensor]:
    """The tensors of a state_dict of any known layout by our names, with `ape` as (1, H, W, C) and
    without index buffers.

    `map_hw` is the first map of the model that they are for. It unfolds the classifier's flat
    `ape`; an `ape` of another length is taken for a square. Nothing is resized. Raises
    WeightsError.
    """
    return dict(parse_weights(content, map_hw=map_hw, source="the checkpoint").tensors)


def parse_weights(content: object, *, map_hw: tuple[int, int], source: str) -> Weights:
    """Like `to_ours`, with the original names. Raises WeightsError, whose text begins with
    `source`."""
    try:
        return _parse(content, map_hw)
    except WeightsError as err:
        raise WeightsError(f"{source}: {err}") from err


def our_name(name: str) -> str:
    """Our name for the reference's tensor `name`; our own names stay as they are."""
    if match := _THEIR_DOWNSAMPLE.fullmatch(name):
        return f"stages.{int(match[1]) + 1}.downsample.{match[2]}"
    if match := _THEIR_BLOCK.fullmatch(name):
        return f"stages.{match[1]}.blocks.{match[3]}.{match[2]}.{match[4]}"
    return f"head.fc.{name.removeprefix('head.')}" if name in ("head.weight", "head.bias") else name


def reference_name(name: str) -> str:
    """The reference's name for our tensor `name`."""
    if match := _OUR_DOWNSAMPLE.fullmatch(name):
        return f"layers.{int(match[1]) - 1}.downsample.{match[2]}"
    if match := _OUR_BLOCK.fullmatch(name):
        return f"layers.{match[1]}.{match[3]}_blocks.{match[2]}.{match[4]}"
    return name.replace("head.fc.", "head.")


def _parse(content: object, map_hw: tuple[int, int]) -> Weights:
    state = _unwrapped(content)
    bare = {name: _PREFIXES.sub("", name) for name in state}
    is_reference = _is_reference(bare)
    sources: dict[str, str] = {}
    for name, stem in bare.items():
        if stem.endswith(_INDEX):
            continue
        ours = our_name(stem)
        if ours in sources:
            raise WeightsError(f"{sources[ours]} and {name} both map to {ours}; keep one of them")
        sources[ours] = name
    tensors = {ours: state[name] for ours, name in sources.items()}
    if "ape" in tensors:
        tensors["ape"] = _as_map(tensors["ape"], map_hw=map_hw, is_reference=is_reference)
    dropped = tuple(name for name, stem in bare.items() if stem.endswith(_INDEX))
    return Weights(tensors, sources, dropped, is_reference)


def _unwrapped(content: object) -> Mapping[str, Tensor]:
    for _ in range(_DEEPEST):
        if isinstance(content, Mapping):
            content = next(
                (content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content
            )
    if not isinstance(content, Mapping) or not any(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise WeightsError(
            f"holds no state_dict, neither at the top level nor under {', '.join(WRAPPERS)}"
        )
    odd = {name: _oddity(name, value) for name, value in content.items()}
    if any(odd.values()):
        listed = ", ".join(f"{name!r} is {reason}" for name, reason in odd.items() if reason)
        raise WeightsError(
            f"holds entries that are not plain tensors by name: {listed}; save only the tensors"
        )
    return content


def _oddity(name: object, value: object) -> str | None:
    """Why an entry is not a plain tensor with a name; None if it is one."""
    if not isinstance(name, str):
        return "not a string"
    if not isinstance(value, Tensor):
        return f"of type {type(value).__name__}"
    if value.is_meta or value.is_nested or value.is_quantized or value.layout is not torch.strided:
        return "not dense"
    # With strides of 0 a few bytes can claim terabytes, which a copy would then allocate.
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        return f"{tuple(value.shape)}, larger than its stored data"
    return None


def _is_reference(bare: Mapping[str, str]) -> bool:
    theirs = next((name for name, stem in bare.items() if stem.startswith("layers.")), None)
    ours = next((name for name, stem in bare.items() if stem.startswith("stages.")), None)
    if theirs and ours:
        raise WeightsError(
            f"mixes two layouts: {theirs} is one of the reference's names, {ours} one of ours; "
            "give a state_dict of one layout"
        )
    return theirs is not None


def _as_map(ape: Tensor, *, map_hw: tuple[int, int], is_reference: bool) -> Tensor:
    """ape_1HWC from the reference's ape_1LC (classifier) or ape_1CHW (backbone), or from ours.

    An ape_1LC whose length differs from `map_hw` is taken for a square; if it is not one,
    WeightsError is raised. Other shapes are returned unchanged.
    """
    if ape.ndim == 3:
        return ape.reshape(ape.shape[0], *_sides(ape.shape[1], map_hw), ape.shape[2])
    return ape.permute(0, 2, 3, 1) if ape.ndim == 4 and is_reference else ape


def _sides(length: int, map_hw: tuple[int, int]) -> tuple[int, int]:
    if length == map_hw[0] * map_hw[1]:
        return map_hw
    side = math.isqrt(length)
    if side == 0 or side * side != length:
        raise WeightsError(
            f"ape has {length} positions; expected {map_hw[0]} x {map_hw[1]}, the model's map, or "
            "a square"
        )
    return side, side
