"""Contestants take turns in alternating order, and ratios are computed within a round."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from benchmarks.speed import rounds
from benchmarks.speed.results import compare
from benchmarks.speed.rounds import SLOT_S, Spread, alternate, warm_up


class Recorder:
    def __init__(self, name: str, seen: list[str], *, step_s: float = 0.0) -> None:
        self.name, self.seen, self.step_s = name, seen, step_s

    def prepare(self) -> None:
        self.seen.append(self.name)

    def step(self) -> None:
        self.seen.append("step")
        clock.now_s += self.step_s


@dataclass
class Clock:
    now_s: float = 0.0

    def perf_counter(self) -> float:
        return self.now_s


clock = Clock()


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "time", clock)


def nothing() -> None:
    """Do nothing: on a CPU the work is done when a call returns."""


def test_every_second_round_runs_in_the_opposite_order() -> None:
    seen: list[str] = []
    contestants = [Recorder(name, seen) for name in "ABC"]
    taken = alternate(contestants, num_steps=[1, 1, 1], rounds=3, synchronize=nothing)
    assert "".join(word for word in seen if word != "step") == "ABCCBAABC"
    assert [len(times) for times in taken] == [3, 3, 3]


def test_a_fast_contestant_makes_more_steps_in_a_round() -> None:
    seen: list[str] = []
    assert warm_up(Recorder("fast", seen, step_s=SLOT_S / 10), nothing) in range(2, 11)
    assert warm_up(Recorder("slow", seen, step_s=2 * SLOT_S), nothing) == 1


def test_preparation_is_not_timed() -> None:
    class Slow(Recorder):
        def prepare(self) -> None:
            clock.now_s += 0.2

    ((step_s,),) = alternate([Slow("A", [])], num_steps=[1], rounds=1, synchronize=nothing)
    assert step_s == 0.0


def test_a_ratio_is_the_median_over_the_rounds() -> None:
    ratio = compare([1.0, 2.0, 10.0], to=[2.0, 2.0, 30.0])
    assert ratio == Spread(median=2.0, min=1.0, max=3.0)
    assert compare([1.0], to=None) is None


def test_a_spread_needs_values() -> None:
    with pytest.raises(ValueError, match="no median for empty data"):
        Spread.of([])
