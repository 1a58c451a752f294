"""Counts a network's multiply-accumulates by mmcv's rules: the published FLOPs of detectors and
segmenters are these.

A multiply-accumulate of a convolution or a linear layer is 1, as are an output of a ReLU, an input
of a norm, and another 1 where the norm is affine. What is not a module counts nothing: products of
queries, keys and values, RoIAlign, interpolation; nor do GELU and softmax.
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
    """What has been added up so far."""

    def __init__(self) -> None:
        self.macs = 0

    def add(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """The forward hook of each module that is counted."""
        if isinstance(module, Ipsa | Cpsa):
            self.macs += _attention(module, inputs[0])
            return
        module.__flops__ = 0
        _RULES[type(module)](module, inputs, output)
        self.macs += module.__flops__


@contextmanager
def counting(network: nn.Module) -> Iterator[Count]:
    """Count what runs through the modules of `network` within this context; several runs add up."""
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
    """Its linear layers, qkv and proj, as the reference applies them: to the padding of its windows
    as well."""
    images, channels = x.shape[0], x.shape[-1]
    num_windows = (
        x.shape[1] if is_windowed(x) else count_windows((x.shape[1], x.shape[2]), attention.window)
    )
    macs = ipsa_macs if isinstance(attention, Ipsa) else cpsa_macs
    return images * macs(channels=channels, window=attention.window, num_windows=num_windows).layers


@dataclass(frozen=True)
class NetworkSize:
    """How many parameters a network has, and multiply-accumulates on an image of the published
    size."""

    params: int
    macs: int | None
    """None where nobody knows how to count them."""


def count_built(scope: Scope, config: Config) -> int:
    """The parameters of any model."""
    return count_params(build_network(scope, config))


def count_params(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@contextmanager
def network_on_meta(scope: Scope, config: Config) -> Iterator[Any]:
    """The network, for validation; tensors that are made in this context have a shape and no values
    (torch's meta)."""
    load_library(scope)
    with DefaultScope.overwrite_default_scope(scope), torch.device("meta"), torch.no_grad():
        with warnings.catch_warnings(action="ignore"):
            network = MODELS.build(MmengineConfig(config)).eval()
        yield network


def run_backbone(network: Any, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """The maps of an image of that height and width, from the neck where there is one."""
    maps: tuple[Tensor, ...] = network.backbone(torch.empty(1, 3, *size))
    return network.neck(maps) if network.with_neck else maps
