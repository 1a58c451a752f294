"""A training step's time, rate and memory.

The measurement is a warm-up, then windows of equal length, then the peak memory of one step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch

from benchmarks.speed.cases import synchronizer
from benchmarks.speed.memory import peak_bytes
from benchmarks.speed.rounds import Spread

_WARM_UP_STEPS = 3
_WINDOWS = 5
_WINDOW_S = 0.4
"""The length of a window; one step, if a step takes longer."""


class Batched(Protocol):
    """A case that is trained in batches."""

    @property
    def batch_size(self) -> int: ...


class TrainingStep(Protocol):
    """A callable that runs one step, on the same batch each time."""

    def __call__(self) -> object: ...

    def held_bytes(self) -> int:
        """Bytes of the weights and the optimizer's state."""


C = TypeVar("C", bound=Batched)


@dataclass(frozen=True)
class Measured(Generic[C]):
    """The measurements of one case. `step_s` is the median of its windows."""

    case: C
    step_s: float
    images_per_s: Spread
    peak_bytes: int
    """Weights, the optimizer's state, and the peak memory of a step."""
    warm_up_s: float
    """Seconds for the first three steps, including compilation."""


def measure(case: C, step: TrainingStep, device: torch.device) -> Measured[C]:
    """Measure a case. Raises torch.OutOfMemoryError if it does not fit."""
    pace = measure_pace(step, device)
    rates = Spread.of([case.batch_size / step_s for step_s in pace.windows_s])
    peak = step.held_bytes() + peak_bytes(step, device)
    return Measured(case, case.batch_size / rates.median, rates, peak, pace.warm_up_s)


class Pace(NamedTuple):
    """Seconds of a step in each window, and of the first three steps with compilation."""

    windows_s: Sequence[float]
    warm_up_s: float


def measure_pace(step: Callable[[], object], device: torch.device) -> Pace:
    synchronize = synchronizer(device)
    warm_up_s = _time_s(step, _WARM_UP_STEPS, synchronize)
    num_steps = max(1, round(_WINDOW_S / _time_s(step, 1, synchronize)))
    return Pace(
        [_time_s(step, num_steps, synchronize) / num_steps for _ in range(_WINDOWS)], warm_up_s
    )


def _time_s(step: Callable[[], object], num_steps: int, synchronize: Callable[[], None]) -> float:
    synchronize()
    start_s = time.perf_counter()
    for _ in range(num_steps):
        step()
    synchronize()
    return time.perf_counter() - start_s
