"""The reference's arithmetic on one image, layer by layer and without shortcuts, and the counts of
counters.

Everything is on the meta device: tensors have shapes, but no values and no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

from cat_model import CatConfig


@dataclass
class Counts:
    """Multiply-adds of Conv2d and Linear and values that norms read, counted by hooks on modules;
    all products, counted by torch."""

    layers: int = 0
    norms: int = 0
    products: int = 0

    def add(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.LayerNorm):
            self.norms += inputs[0].numel()
        elif isinstance(module, nn.Linear | nn.Conv2d):
            self.layers += output.numel() * module.weight[0].numel()


@contextmanager
def counting() -> Iterator[Counts]:
    """Creates modules and tensors on the meta device, and counts everything that runs inside the
    context."""
    counts = Counts()
    hook = register_module_forward_hook(counts.add)
    try:
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            yield counts
    finally:
        hook.remove()
    counts.products = counter.get_total_flops() // 2  # it counts a multiply-add as two


def run_plainly(config: CatConfig, image_hw: tuple[int, int], *, num_classes: int) -> None:
    """Runs the embedding, the stages and the head; maps are (height, width, channels)."""
    image = padded(torch.empty(*image_hw, config.in_chans), config.patch_size).permute(2, 0, 1)
    x = nn.Conv2d(config.in_chans, config.embed_dim, config.patch_size, config.patch_size)(
        image
    ).permute(1, 2, 0)
    if config.patch_norm:
        x = normed(x)
    for stage, (depth, heads) in enumerate(zip(config.depths, config.num_heads, strict=True)):
        x = _projected(x) if stage else x
        for _ in range(depth):
            for is_cpsa in (False, True, False):
                _run_block(x, config, heads=heads, is_cpsa=is_cpsa)
    nn.Linear(config.dims[-1], num_classes)(normed(x).mean((0, 1)))


def _run_block(x: Tensor, config: CatConfig, *, heads: int, is_cpsa: bool) -> None:
    window, channels = config.window_size, x.shape[2]
    grid = padded(normed(x), window).unfold(0, window, window).unfold(1, window, window)
    windows = grid.permute(2, 0, 1, 3, 4).reshape(channels, -1, window**2)
    if is_cpsa:
        _attend(windows, heads=1)
    else:
        _attend(windows.permute(1, 2, 0), heads=heads)
    hidden = int(channels * config.mlp_ratio)
    nn.Linear(hidden, channels)(nn.Linear(channels, hidden)(normed(x)))


def _attend(x: Tensor, *, heads: int) -> None:
    """x has (sequences, tokens, features): the tokens of a sequence attend to each other."""
    sequences, tokens, features = x.shape
    qkv = nn.Linear(features, 3 * features)(x).view(sequences, tokens, 3, heads, features // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    nn.Linear(features, features)((q @ k.mT @ v).transpose(1, 2).reshape(x.shape))


def _projected(x: Tensor) -> Tensor:
    gathered = functional.pixel_unshuffle(padded(x, 2).permute(2, 0, 1)[None], 2)[0].permute(
        1, 2, 0
    )
    width = gathered.shape[2]
    halved: Tensor = nn.Linear(width, width // 2, bias=False)(normed(gathered))
    return halved


def normed(x: Tensor) -> Tensor:
    out: Tensor = nn.LayerNorm(x.shape[-1])(x)
    return out


def padded(x: Tensor, side: int) -> Tensor:
    """Pads a map with zeros below and to the right, up to a multiple of `side`."""
    return functional.pad(x, (0, 0, 0, -x.shape[1] % side, 0, -x.shape[0] % side))
