"""Times contestants round by round in alternating order.

A shared machine that gets slower or faster then affects all of them equally.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple, Protocol

SLOT_S = 0.5
"""The shortest part of a round for a contestant.

A fast contestant runs several steps in it, a slow one runs one step.
"""
_WARM_UP_STEPS = 2  # the first compiles or plans, the second records a CUDA graph


class Contestant(Protocol):
    """What is timed: `step`, but not `prepare`."""

    def prepare(self) -> None: ...

    def step(self) -> None: ...


class Spread(NamedTuple):
    """Median, minimum and maximum over all rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


def warm_up(contestant: Contestant, synchronize: Callable[[], None]) -> int:
    """Run some steps; return the number of steps that fills a slot."""
    contestant.prepare()
    for _ in range(_WARM_UP_STEPS):
        contestant.step()
    return math.ceil(SLOT_S / _step_s(contestant, 1, synchronize))


def alternate(
    contestants: Sequence[Contestant],
    *,
    num_steps: Sequence[int],
    rounds: int,
    synchronize: Callable[[], None],
) -> list[list[float]]:
    """Seconds a step, of each contestant in each round.

    Every second round runs in the opposite order.
    """
    taken: list[list[float]] = [[] for _ in contestants]
    order = list(range(len(contestants)))
    for _ in range(rounds):
        for i in order:
            contestants[i].prepare()
            taken[i].append(_step_s(contestants[i], num_steps[i], synchronize))
        order.reverse()
    return taken


def _step_s(contestant: Contestant, num_steps: int, synchronize: Callable[[], None]) -> float:
    synchronize()
    start = time.perf_counter()
    for _ in range(num_steps):
        contestant.step()
    synchronize()
    return (time.perf_counter() - start) / num_steps
