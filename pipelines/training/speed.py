"""Measures how fast a training is, and how long it waits for data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SpeedMeter:
    """Seconds of training, without validations and checkpoints, and the part of them spent waiting
    for data."""

    trained_s: float = 0.0
    waited_s: float = 0.0
    num_iterations: int = 0
    """Iterations of this attempt; with `attempt_s`, they give an estimate of the remaining time."""
    attempt_s: float = 0.0

    def add(self, *, trained_s: float, waited_s: float) -> None:
        self.trained_s += trained_s
        self.waited_s += waited_s
        self.attempt_s += trained_s
        self.num_iterations += 1

    @property
    def s_per_iteration(self) -> float:
        return self.attempt_s / max(1, self.num_iterations)

    @property
    def data_wait(self) -> float:
        """Part of the training time that was spent waiting for data, in %."""
        return 100 * self.waited_s / self.trained_s if self.trained_s else 0.0
