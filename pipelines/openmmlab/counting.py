"""Counts a network's multiply-accumulates by mmcv's rules. The published FLOPs of detectors and
segmenters follow these rules.

These count 1 each: a multiply-accumulate of a convolution or a linear layer, an output of a ReLU,
and an input of a norm (2 if the norm is affine). Operations outside modules count 0: products of
queries, keys and values, RoIAlign, and interpolation. GELU and softmax also count 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import pipelines.openmmlab.backbone  # noqa: F401 - registers CAT
from cat_model.attention import Cpsa, Ipsa
from cat_model.complexity import count_windows, cpsa_macs, ipsa_macs
from cat_model.windows import is_windowed
from pipelines.openmmlab.building import build_network
from pipelines.openmmlab.library import (
    MODELS,
    DefaultScope,
    Scope,
    get_modules_mapping,
    load_library,
)
from pipelines.openmmlab.library import Config as MmengineConfig
from pipelines.openmmlab.recipe import Config

_RULES = get_modules_mapping()
"""mmcv's rules: type of module -> forward hook that adds to its `__flops__`."""


class Count:
    """A running count of multiply-accumulates."""

    def __init__(self) -> None:
        self.macs = 0

    def add(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """The forward hook of each counted module."""
        if isinstance(module, Ipsa | Cpsa):
            self.macs += _attention(module, inputs[0])
            return
        module.__flops__ = 0
        _RULES[type(module)](module, inputs, output)
        self.macs += module.__flops__


@contextmanager
def counting(network: nn.Module) -> Iterator[Count]:
    """Counts forward passes through the modules of `network` within this context. Several passes
    add up."""
    count = Count()
    handles = [module.register_forward_hook(count.add) for module in _counted(network)]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()


def _counted(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that have a rule: an attention's rule includes its linear layers."""
    if isinstance(module, Ipsa | Cpsa) or type(module) in _RULES:
        yield module
        return
    for child in module.children():
        yield from _counted(child)


def _attention(attention: Ipsa | Cpsa, x: Tensor) -> int:
    """Multiply-accumulates of the attention's linear layers, qkv and proj. Includes the padding of
    the windows, to which the reference applies these layers too."""
    images, channels = x.shape[0], x.shape[-1]
    num_windows = (
        x.shape[1] if is_windowed(x) else count_windows((x.shape[1], x.shape[2]), attention.window)
    )
    macs = ipsa_macs if isinstance(attention, Ipsa) else cpsa_macs
    return images * macs(channels=channels, window=attention.window, num_windows=num_windows).layers


@dataclass(frozen=True)
class NetworkSize:
    """A network's number of parameters, and its multiply-accumulates on an image of the published
    size."""

    params: int
    macs: int | None
    """None for the model of a config file, whose parts have no known counting rule."""


def count_built(scope: Scope, config: Config) -> int:
    """The number of parameters of any model."""
    return count_params(build_network(scope, config))


def count_params(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@contextmanager
def network_on_meta(scope: Scope, config: Config) -> Iterator[Any]:
    """The network in eval mode. Tensors created in this context have a shape but no values (torch's
    meta device)."""
    load_library(scope)
    with DefaultScope.overwrite_default_scope(scope), torch.device("meta"), torch.no_grad():
        with warnings.catch_warnings(action="ignore"):
            network = MODELS.build(MmengineConfig(config)).eval()
        yield network


def run_backbone(network: Any, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """The maps of an image of `size` (height, width), from the neck if the network has one."""
    maps: tuple[Tensor, ...] = network.backbone(torch.empty(1, 3, *size))
    return network.neck(maps) if network.with_neck else maps
