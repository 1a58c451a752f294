"""Measures the best rates of a device (roofs), in the same run as the benchmark.

The roofs are the rate of one matrix product and the rate of one copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_REPEATS = 10
_SMALLEST_SIDE = 256
_LARGEST_SIDES = {"cpu": 2048, "cuda": 8192}
_LONG_S = 0.05
"""The side stops growing at a product of this length.

A CPU without bf16 instructions takes a minute for side 2048.
"""
_COPY_BYTES = {"cpu": 256 * 2**20, "cuda": 2**30}  # many times any cache


@dataclass(frozen=True)
class Roofs:
    """The roofs of one precision: the best of ten repeats."""

    matmul_side: int
    """The largest of 256, 512, ... that the device multiplies in reasonable time."""
    matmul_flops_per_s: float
    copy_bytes: int
    copy_bytes_per_s: float
    """Bytes read plus bytes written, a second."""


def measure_roofs(
    dtype: torch.dtype, *, device: torch.device, synchronize: Callable[[], None]
) -> Roofs:
    side = _SMALLEST_SIDE
    while (
        matmul_s := _matmul_s(side, dtype, device, synchronize)
    ) < _LONG_S and side < _LARGEST_SIDES[device.type]:
        side *= 2
    num_bytes = _COPY_BYTES[device.type]
    source = torch.zeros(num_bytes // dtype.itemsize, dtype=dtype, device=device)
    target = torch.empty_like(source)
    copy_s = _best_s(lambda: target.copy_(source), synchronize)
    return Roofs(side, 2 * side**3 / matmul_s, num_bytes, 2 * num_bytes / copy_s)


def _matmul_s(
    side: int, dtype: torch.dtype, device: torch.device, synchronize: Callable[[], None]
) -> float:
    """Seconds for one product of square matrices."""
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    product = torch.empty_like(a)
    return _best_s(lambda: torch.mm(a, b, out=product), synchronize)


def _best_s(work: Callable[[], Tensor], synchronize: Callable[[], None]) -> float:
    work()
    taken = []
    for _ in range(_REPEATS):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken)
