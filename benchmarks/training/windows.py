"""The pace of a training step: a warm-up, then windows of equal length."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from benchmarks.speed.cases import synchronizer

_WARM_UP_STEPS = 3
_WINDOWS = 5
_WINDOW_S = 0.4
"""Five windows of this length, or of one step where that takes longer."""


class Pace(NamedTuple):
    """Seconds of a step in each window; the first three steps together, compilation included."""

    windows_s: Sequence[float]
    warm_up_s: float


def measure_pace(step: Callable[[], object], device: torch.device) -> Pace:
    synchronize = synchronizer(device)
    warm_up_s = _time_s(step, _WARM_UP_STEPS, synchronize)
    num_steps = max(1, round(_WINDOW_S / _time_s(step, 1, synchronize)))
    return Pace([_time_s(step, num_steps, synchronize) / num_steps for _ in range(_WINDOWS)], warm_up_s)


def _time_s(step: Callable[[], object], num_steps: int, synchronize: Callable[[], None]) -> float:
    synchronize()
    start_s = time.perf_counter()
    for _ in range(num_steps):
        step()
    synchronize()
    return time.perf_counter() - start_s
