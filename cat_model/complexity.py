"""Counts a CAT's parameters and multiply-adds from its config, without building or running it.

There are three conventions, and no single one of them gives all of the published figures (G, at 224
x 224):

    reference: products, and 1 for each value that a norm reads (the reference's flops())
    products:  convolutions, linear layers and attention (half of torch's FlopCounterMode)
    modules:   convolutions, linear layers and norms (what hooks on modules see)

    convention   CAT-T   CAT-S   CAT-B
    reference    2.774   6.068   8.935
    products     2.770   6.063   8.928
    modules      2.650   5.883   8.703
    published    2.8     5.9     8.9

`reference` and `products` round to the published figures of CAT-T and CAT-B. Only `modules` rounds
to the figure of CAT-S (as do convolutions and linear layers without norms: 2.647, 5.878 and 8.697).
Parameters are 16.87, 37.29 and 51.53 M, published as 17, 37 and 52. A multiply-add counts 1
everywhere; biases, the position embedding, softmax and GELU count 0.

The counts follow the reference's arithmetic: attention runs over whole windows with their padding,
over one window as over many, and with four linear layers. `Cat` itself takes shortcuts and
multiplies less: CAT-S 1.2% less at 224 x 224, where CPSA's four linear layers fold into two, and 6%
less at 200 x 300, where windows are padded as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cat_model.config import CatConfig


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of one image, by the kind of operation."""

    layers: int = 0
    """Multiply-adds of convolutions and linear layers."""
    attention: int = 0
    """Multiply-adds of queries with keys, and of attention weights with values."""
    norms: int = 0
    """One for each value that a LayerNorm reads."""

    @property
    def products(self) -> int:
        return self.layers + self.attention

    def __add__(self, other: Macs) -> Macs:
        return Macs(
            self.layers + other.layers, self.attention + other.attention, self.norms + other.norms
        )

    def __mul__(self, times: int) -> Macs:
        return Macs(self.layers * times, self.attention * times, self.norms * times)


@dataclass(frozen=True)
class Groups:
    """The attention of a stage: its numbers of groups, of IPSA heads, and of windows of the padded
    map."""

    num_groups: int
    num_heads: int
    num_windows: int


@dataclass(frozen=True)
class Part:
    """A part of the network, by its name in the model; `map_hw` and `channels` are its output."""

    name: str
    map_hw: tuple[int, int] | None
    channels: int
    groups: Groups | None
    params: int
    macs: Macs


@dataclass(frozen=True)
class Complexity:
    """Counts of the embedding, each stage and the head of a classifier, and their sums."""

    parts: tuple[Part, ...]
    norm_excess: int
    """What the reference's flops() counts for the last norm beyond the values that it reads (may be
    negative).

    It divides the positions of the first map by 2 for each stage, although each halving leaves a
    quarter of them. For CAT-T at 224 x 224 it counts 100,352 values where the norm reads 25,088.
    """

    @property
    def params(self) -> int:
        return sum(part.params for part in self.parts)

    @property
    def macs(self) -> Macs:
        return sum((part.macs for part in self.parts), Macs())

    @property
    def conventions(self) -> dict[str, int]:
        """Multiply-adds by the name of the convention."""
        macs = self.macs
        return {
            "reference": macs.products + macs.norms + self.norm_excess,
            "products": macs.products,
            "modules": macs.layers + macs.norms,
        }


@dataclass(frozen=True)
class Published:
    """Counts of a model with 1000 classes on images of 224 x 224 pixels, rounded as in the paper
    and the official README."""

    params_m: int
    flops_g: float


PUBLISHED: Mapping[str, Published] = {
    "cat_tiny": Published(17, 2.8),
    "cat_small": Published(37, 5.9),
    "cat_base": Published(52, 8.9),
}


def complexity(config: CatConfig, *, image_hw: tuple[int, int], num_classes: int) -> Complexity:
    """Counts for one image of any size (height, width) in pixels.

    The image is padded to a multiple of the patch, a map to whole windows in attention, and an odd
    map to an even one before it is halved. Parameters do not depend on the image. `num_classes` 0
    means a model without a classifier. Raises ValueError for sizes below one pixel and for a
    negative number of classes.
    """
    if min(image_hw) < 1:
        raise ValueError(
            f"image_hw must be a height and a width of at least one pixel, got {image_hw}"
        )
    if num_classes < 0:
        raise ValueError(f"num_classes must be 0 (no classifier) or more, got {num_classes}")
    maps_hw = [
        _divided(image_hw, config.patch_size * 2**stage) for stage in range(len(config.depths))
    ]
    stages = (_stage(config, stage, map_hw) for stage, map_hw in enumerate(maps_hw))
    parts = (_embedding(config, maps_hw[0]), *stages, _head(config, maps_hw[-1], num_classes))
    said = config.dims[-1] * math.prod(maps_hw[0]) // 2 ** len(config.depths)
    return Complexity(parts, norm_excess=said - parts[-1].macs.norms)


def count_windows(map_hw: tuple[int, int], window: int) -> int:
    """Number of windows of a map that is padded to a multiple of the window."""
    return math.prod(_divided(map_hw, window))


def ipsa_macs(*, channels: int, window: int, num_windows: int) -> Macs:
    """Multiply-adds of IPSA without its block's norm and MLP: positions of a window attend to each
    other, in all channels."""
    return _attention_macs(sequences=num_windows, tokens=window**2, features=channels)


def cpsa_macs(*, channels: int, window: int, num_windows: int) -> Macs:
    """Multiply-adds of CPSA without its block's norm and MLP: in each channel, windows attend to
    each other, with their positions as features."""
    return _attention_macs(sequences=channels, tokens=num_windows, features=window**2)


def _attention_macs(*, sequences: int, tokens: int, features: int) -> Macs:
    """Multiply-adds of one attention: queries, keys, values and the projection are 4 linear layers;
    the two products do not depend on the number of heads."""
    return Macs(
        layers=sequences * tokens * 4 * features**2, attention=sequences * 2 * tokens**2 * features
    )


def _embedding(config: CatConfig, map_hw: tuple[int, int]) -> Part:
    """Counts of convolution, norm and position embedding; slicing first changes neither count."""
    num_patches, channels = math.prod(map_hw), config.embed_dim
    weights = config.in_chans * config.patch_size**2 * channels
    norm = 2 * channels if config.patch_norm else 0
    ape = math.prod(config.map_hw) * channels if config.ape else 0
    macs = Macs(
        layers=num_patches * weights, norms=num_patches * channels if config.patch_norm else 0
    )
    return Part("patch_embed", map_hw, channels, None, weights + channels + norm + ape, macs)


def _stage(config: CatConfig, stage: int, map_hw: tuple[int, int]) -> Part:
    """Counts of a stage: the patch projection in front of it, and its groups."""
    channels, num_groups = config.dims[stage], config.depths[stage]
    groups = Groups(num_groups, config.num_heads[stage], count_windows(map_hw, config.window_size))
    params = _group_params(config, stage) * num_groups
    macs = _group_macs(config, channels, math.prod(map_hw), groups.num_windows) * num_groups
    if stage:
        gathered = (
            2 * channels
        )  # four positions of the previous map, each with half of the channels
        params += 2 * gathered + gathered * channels
        macs += Macs(layers=gathered * channels, norms=gathered) * math.prod(map_hw)
    return Part(f"stages.{stage}", map_hw, channels, groups, params, macs)


def _head(config: CatConfig, map_hw: tuple[int, int], num_classes: int) -> Part:
    """Counts of the last norm, the mean and the classifier."""
    channels = config.dims[-1]
    weights = channels * num_classes
    macs = Macs(layers=weights, norms=channels * math.prod(map_hw))
    return Part(
        "head", None, num_classes or channels, None, 2 * channels + weights + num_classes, macs
    )


def _group_macs(config: CatConfig, channels: int, positions: int, num_windows: int) -> Macs:
    """Multiply-adds of IPSA, CPSA and IPSA; norms and MLPs see the map without padding."""
    sizes = {"channels": channels, "window": config.window_size, "num_windows": num_windows}
    mlp = Macs(
        layers=2 * positions * channels * _hidden(config, channels), norms=2 * positions * channels
    )
    return ipsa_macs(**sizes) * 2 + cpsa_macs(**sizes) + mlp * 3


def _group_params(config: CatConfig, stage: int) -> int:
    channels, hidden = config.dims[stage], _hidden(config, config.dims[stage])
    bias_table = (2 * config.window_size - 1) ** 2 * config.num_heads[stage]
    norms_and_mlp = 4 * channels + 2 * channels * hidden + hidden + channels
    ipsa = bias_table + _attention_params(config, features=channels)
    return 2 * ipsa + _attention_params(config, features=config.window_size**2) + 3 * norms_and_mlp


def _attention_params(config: CatConfig, *, features: int) -> int:
    return 4 * features**2 + features + (3 * features if config.qkv_bias else 0)


def _hidden(config: CatConfig, channels: int) -> int:
    return int(channels * config.mlp_ratio)


def _divided(sides: tuple[int, int], by: int) -> tuple[int, int]:
    """Sides divided and rounded up, because a remainder is padded; in integers, so no size
    overflows."""
    return -(-sides[0] // by), -(-sides[1] // by)
