"""Identifies a CAT by its tensors: as a published size, or by the shapes. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from cat_model.config import CONFIGS, CatConfig

Candidate = tuple[str | None, CatConfig]
"""A network that the tensors may belong to, with its name if it is a published size."""
_RATES = ("drop_rate", "attn_drop_rate", "drop_path_rate")
_BLOCK = re.compile(r"stages\.(\d{1,4})\.blocks\.(\d{1,4})\.")
_FIRST = "stages.{}.blocks.0.pre_ipsa."


def candidates(tensors: Mapping[str, Tensor]) -> list[Candidate]:
    """The networks that `tensors`, by our names, may belong to: the published sizes, by name, and
    the one that the shapes describe.

    Each has the `img_size` of the tensors' `ape`. The described network is omitted if it only lacks
    some tensors of a published size: such a file is broken, not another network.
    """
    published: list[Candidate] = [
        (name, at_map(config, tensors)) for name, config in CONFIGS.items()
    ]
    described = config_of(tensors)
    if described is None or name_of(replace(described, ape=True, patch_norm=True, qkv_bias=True)):
        return published
    return [*published, (None, described)]


def name_of(config: CatConfig) -> str | None:
    """The name of the published size that equals `config`, ignoring image size and rates."""
    for name, published in CONFIGS.items():
        rates = {key: getattr(published, key) for key in _RATES}
        if replace(config, img_size=published.img_size, **rates) == published:
            return name
    return None


def at_map(config: CatConfig, tensors: Mapping[str, Tensor]) -> CatConfig:
    """`config` with the image size whose first map matches the tensors' `ape`; unchanged if there
    is none."""
    ape = tensors.get("ape")
    if ape is None or ape.ndim != 4 or tuple(ape.shape[1:3]) == config.map_hw:
        return config
    try:
        return replace(
            config, img_size=(ape.shape[1] * config.patch_size, ape.shape[2] * config.patch_size)
        )
    except ValueError:  # not an image size; the shape of `ape` is then reported as it is
        return config


def config_of(tensors: Mapping[str, Tensor]) -> CatConfig | None:
    """The config that the shapes of `tensors` describe; None if they describe none.

    Settings that shapes do not show take the reference's defaults: `qk_scale` None, no dropout. A
    1x1 embedding of 16 times some number of channels is the slice embedding, because the reference
    uses 1x1 embeddings for nothing else.
    """
    try:
        return _config_of(tensors)
    except (KeyError, ValueError):
        return None


def _config_of(tensors: Mapping[str, Tensor]) -> CatConfig:
    embed_dim, in_chans, patch_size, _ = tensors["patch_embed.proj.weight"].shape
    depths = _depths(tensors)
    tables = [
        tensors[_FIRST.format(i) + "attn.relative_position_bias_table"] for i in range(len(depths))
    ]
    offsets, _ = tables[0].shape
    is_slice = patch_size == 1 and in_chans % 16 == 0
    config = CatConfig(
        in_chans=in_chans // 16 if is_slice else in_chans,
        patch_size=4 if is_slice else patch_size,
        patch_embed="slice" if is_slice else "conv",
        window_size=(math.isqrt(offsets) + 1) // 2,  # the table has (2 window_size - 1)^2 rows
        embed_dim=embed_dim,
        depths=depths,
        num_heads=tuple(table.shape[-1] for table in tables),
        mlp_ratio=tensors[_FIRST.format(0) + "mlp.fc1.weight"].shape[0] / embed_dim,
        qkv_bias=_FIRST.format(0) + "attn.qkv.bias" in tensors,
        patch_norm="patch_embed.norm.weight" in tensors,
        ape="ape" in tensors,
    )
    return at_map(config, tensors)


def _depths(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Number of groups of each stage, from the highest numbers in names; a gap is reported later as
    missing tensors."""
    blocks = [match for name in tensors if (match := _BLOCK.match(name))]
    depths = [0] * (1 + max((int(match[1]) for match in blocks), default=-1))
    for match in blocks:
        depths[int(match[1])] = max(depths[int(match[1])], 1 + int(match[2]))
    return tuple(depths)
