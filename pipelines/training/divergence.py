"""Notices a training that diverged: losses that are not numbers, read from the device a window at a
time, and weights.

Each look waits for the GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

WINDOW = 50
"""Updates between looks."""


@dataclass
class Losses:
    """Sums up one at a time, so that the sum does not depend on when it was looked at."""

    sum: float
    """Sum of the losses read so far."""
    _unread: list[tuple[int, Tensor]] = field(default_factory=list)

    def add(self, step: int, loss: Tensor) -> None:
        """`step`, counted from 1 in its epoch, is what an error names."""
        self._unread.append((step, loss))

    @property
    def is_window_full(self) -> bool:
        return len(self._unread) >= WINDOW

    def read(self) -> float | None:
        """The mean of the losses added since the last call, None where there are none.

        Raises NonFiniteLossError for the first that is NaN or infinite.
        """
        if not self._unread:
            return None
        values: list[float] = torch.stack([loss for _, loss in self._unread]).tolist()
        for (step, _), value in zip(self._unread, values, strict=True):
            if not math.isfinite(value):
                raise NonFiniteLossError(step, value)
            self.sum += value
        self._unread.clear()
        return sum(values) / len(values)


class NonFiniteLossError(ArithmeticError):
    """A loss that is NaN or infinite, and the step of its epoch, counted from 1."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(step, loss)
        self.step, self.loss = step, loss


def has_finite_weights(model: nn.Module) -> bool:
    """Whether all weights are numbers; waits for the device. Ranks hold the same weights, so all
    agree."""
    return bool(nn.utils.get_total_norm(list(model.parameters())).isfinite())
