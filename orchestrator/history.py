"""How stages trained: attempts and curves, as values. `runs/history.py` reads them from events.

A stage may log a million points, so curves are arrays.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

STEPS_PER_UNIT = 1000


@dataclass
class Curve:
    """A metric over a stage's progress; `done` rises, in the stage's own unit (epochs,
    iterations)."""

    done: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))
    times_s: array[float] = field(default_factory=lambda: array("d"))
    """When each point was logged, in seconds since the epoch."""

    def add(self, done: float, value: float, time_s: float) -> None:
        """Add a point; points from there on are forgotten, since they were trained again."""
        if self.done and self.done[-1] >= done:
            self._cut(bisect_left(self.done, done))
        self.done.append(done)
        self.values.append(value)
        self.times_s.append(time_s)

    def forget_after(self, done: float) -> None:
        """Forget what was trained after `done`."""
        self._cut(bisect_right(self.done, done))

    @property
    def steps(self) -> list[int]:
        """`done` for tools that count in whole steps: in thousandths if a point has a fraction."""
        scale = 1 if all(done == int(done) for done in self.done) else STEPS_PER_UNIT
        return [round(done * scale) for done in self.done]

    def _cut(self, index: int) -> None:
        del self.done[index:]
        del self.values[index:]
        del self.times_s[index:]


@dataclass
class AttemptHistory:
    """One try at a stage, as far as its events show it; times are seconds since the epoch."""

    run_id: str
    number: int
    began_at_s: float
    ended_at_s: float
    """When it was last heard of."""
    began_at_done: float | None = None
    """How far the stage was when this attempt began to train; None if it never did."""
    lost: str | None = None
    """Why it was lost, if another attempt followed in the same run."""
    workers: int | None = None
    """The number of its workers; None in records of older versions."""


@dataclass
class StageHistory:
    """All attempts at a stage, oldest first, and the curves of the training that remains of
    them."""

    attempts: list[AttemptHistory] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    total: float | None = None

    @property
    def resumptions(self) -> tuple[float, ...]:
        """How far the stage was when each attempt but the first began to train."""
        begins = [one.began_at_done for one in self.attempts if one.began_at_done is not None]
        return tuple(begins[1:])


@dataclass(frozen=True)
class StageState:
    """The state of a stage by the record of the last run, such as `done` or `failed`."""

    state: str
    error: str | None = None


@dataclass(frozen=True)
class RunSpan:
    """When one run worked."""

    run_id: str
    began_at_s: float
    ended_at_s: float


@dataclass(frozen=True)
class Histories:
    """What the store has of how a job's stages trained."""

    stages: Mapping[str, StageHistory]
    """By Key."""
    runs: tuple[RunSpan, ...]
    """Oldest first."""
    remarks: tuple[str, ...] = ()
    """One for each record and each batch of events that cannot be read."""
