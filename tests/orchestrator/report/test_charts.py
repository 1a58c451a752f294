"""Charts show every extreme of a curve and mark where later attempts took over."""

from __future__ import annotations

import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.history import AttemptHistory, Curve, StageHistory
from orchestrator.report.charts import HEIGHT, WIDTH, make_charts, nice_ticks, thinned

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=3000)


def curve_of(values: list[float]) -> Curve:
    done = array("d", range(1, len(values) + 1))
    return Curve(done, array("d", values), done[:])


@given(VALUES)
def test_thinning_keeps_ends_and_extremes(values: list[float]) -> None:
    points = thinned(curve_of(values), num_buckets=10)
    assert points[0] == (1, values[0])
    assert points[-1] == (len(values), values[-1])
    assert min(value for _, value in points) == min(values)
    assert max(value for _, value in points) == max(values)


@given(VALUES)
def test_thinning_keeps_a_bounded_number_of_points_in_order(values: list[float]) -> None:
    points = thinned(curve_of(values), num_buckets=10)
    assert len(points) <= 40
    assert [done for done, _ in points] == sorted(done for done, _ in points)


def test_a_short_spike_among_a_million_points_is_kept() -> None:
    values = [math.sin(index / 1e4) for index in range(1_000_000)]
    values[654_321] = 9.0
    assert (654_322, 9.0) in thinned(curve_of(values))


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_inside_the_range(low: float, width: float) -> None:
    if low + width <= low:
        return
    ticks = nice_ticks(low, low + width)
    assert len(ticks) <= 6
    assert all(low - width * 1e-6 <= tick <= low + width * (1 + 1e-6) for tick in ticks)


def test_all_points_are_inside_the_drawing() -> None:
    history = StageHistory(curves={"loss": curve_of([3.0, -1.0, 2.0])}, total=10)
    (chart,) = make_charts(history)
    pairs = [tuple(map(float, pair.split(","))) for pair in chart.points.split()]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in pairs)


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0])
def test_a_constant_curve_is_drawn(value: float) -> None:
    (chart,) = make_charts(StageHistory(curves={"loss": curve_of([value, value])}))
    assert chart.y_range[0] < value < chart.y_range[1]


def test_curves_come_in_the_order_asked_for_each_once() -> None:
    curves = {name: curve_of([1.0, 2.0]) for name in ("zeta", "loss", "top1")}
    charts = make_charts(StageHistory(curves=curves), first=("loss", "top1", "loss", "other"))
    assert [chart.title for chart in charts] == ["loss", "top1", "zeta"]


def test_a_single_point_is_not_a_curve() -> None:
    assert make_charts(StageHistory(curves={"loss": curve_of([1.0])})) == ()


def test_resumptions_are_marked() -> None:
    attempts = [AttemptHistory("1", number, 0, 1, begin) for number, begin in ((1, 1), (2, 2))]
    history = StageHistory(attempts, {"loss": curve_of([1.0, 2.0, 3.0])}, total=3)
    (chart,) = make_charts(history)
    assert len(chart.resumptions) == 1
    assert 0 < chart.resumptions[0] < WIDTH
