"""Counts a network's multiply-accumulates by mmcv's rules: the published FLOPs of detectors and segmenters are these.

A multiply-accumulate of a convolution or a linear layer is 1, as are an output of a ReLU, an input of a norm, and
another 1 where the norm is affine. What is no module counts nothing: products of queries, keys and values, RoIAlign,
interpolation; nor do GELU and softmax.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from cat_model.attention import Cpsa, Ipsa
from cat_model.complexity import count_windows, cpsa_macs, ipsa_macs
from cat_model.windows import is_windowed
from pipelines.openmmlab.library import get_modules_mapping

_RULES = get_modules_mapping()
"""Of mmcv: type of module -> forward hook that adds to its `__flops__`."""


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
    """The outermost modules that have a rule: an attention's stands for its linear layers, too."""
    if isinstance(module, Ipsa | Cpsa) or type(module) in _RULES:
        yield module
        return
    for child in module.children():
        yield from _counted(child)


def _attention(attention: Ipsa | Cpsa, x: Tensor) -> int:
    """Its linear layers, qkv and proj, as the reference applies them: to the padding of its windows as well."""
    images, channels = x.shape[0], x.shape[-1]
    num_windows = x.shape[1] if is_windowed(x) else count_windows((x.shape[1], x.shape[2]), attention.window)
    macs = ipsa_macs if isinstance(attention, Ipsa) else cpsa_macs
    return images * macs(channels=channels, window=attention.window, num_windows=num_windows).layers
