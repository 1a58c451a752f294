"""Detects a diverged training: NaN or infinite losses and weights. Losses are read from the device
one window at a time.

Each read waits for the GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

WINDOW = 50
"""Updates between two reads."""


@dataclass
class Losses:
    """Losses of an epoch, summed one at a time, so that the sum does not depend on when it is
    read."""

    sum: float
    """Sum of the losses read so far."""
    _unread: list[tuple[int, Tensor]] = field(default_factory=list)

    def add(self, step: int, loss: Tensor) -> None:
        """Add the loss of `step`, counted from 1 in its epoch; errors name it."""
        self._unread.append((step, loss))

    @property
    def is_window_full(self) -> bool:
        return len(self._unread) >= WINDOW

    def read(self) -> float | None:
        """The mean of the losses added since the last call; None if there are none.

        Raises NonFiniteLossError for the first loss that is NaN or infinite.
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
    """Whether all weights are finite; waits for the device. All ranks hold the same weights, so all
    agree."""
    return bool(nn.utils.get_total_norm(list(model.parameters())).isfinite())
