"""A curve -> the numbers of an SVG chart. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.history import Curve, StageHistory

WIDTH, HEIGHT = 360, 180
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 22
NUM_BUCKETS = WIDTH - LEFT - RIGHT
"""Columns of pixels: a curve keeps at most four points in each."""
NUM_TICKS = 4


@dataclass(frozen=True)
class Tick:
    at: float
    """In pixels."""
    text: str


@dataclass(frozen=True)
class Chart:
    """One curve, in pixels of a drawing of WIDTH x HEIGHT."""

    title: str
    points: str
    """As an SVG polyline has them."""
    num_points: int
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    resumptions: tuple[float, ...]
    """Where a later attempt took over."""
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    newest: float


def make_charts(history: StageHistory, *, first: Sequence[str] = ()) -> tuple[Chart, ...]:
    """A chart for each metric with at least two points: those in `first` first, then by name."""
    names = [name for name in dict.fromkeys(first) if name in history.curves]
    names += sorted(history.curves.keys() - set(names))
    return tuple(
        make_chart(name, history.curves[name], history)
        for name in names
        if len(history.curves[name].done) > 1
    )


def make_chart(title: str, curve: Curve, history: StageHistory) -> Chart:
    x_range = (min(0.0, curve.done[0]), max(history.total or 0.0, curve.done[-1]))
    y_range = _padded(min(curve.values), max(curve.values))
    points = thinned(curve)
    xs = _scale(x_range, LEFT, WIDTH - RIGHT)
    ys = _scale(y_range, HEIGHT - BOTTOM, TOP)
    return Chart(
        title=title,
        points=" ".join(f"{xs(x):.1f},{ys(y):.1f}" for x, y in points),
        num_points=len(curve.done),
        x_ticks=tuple(Tick(round(xs(x), 1), f"{x:g}") for x in nice_ticks(*x_range)),
        y_ticks=tuple(Tick(round(ys(y), 1), f"{y:g}") for y in nice_ticks(*y_range)),
        resumptions=tuple(round(xs(x), 1) for x in history.resumptions),
        x_range=x_range,
        y_range=y_range,
        newest=curve.values[-1],
    )


def thinned(curve: Curve, num_buckets: int = NUM_BUCKETS) -> list[tuple[float, float]]:
    """The points that a drawing of so many columns shows: of each column the first, the least, the
    greatest and the last one. No extreme is lost."""
    points = list(zip(curve.done, curve.values, strict=True))
    if len(points) <= 4 * num_buckets:
        return points
    begin, width = curve.done[0], (curve.done[-1] - curve.done[0]) / num_buckets
    kept: list[tuple[float, float]] = []
    start = 0
    for bucket in range(1, num_buckets + 1):
        end = start
        while end < len(points) and (
            bucket == num_buckets or points[end][0] < begin + bucket * width
        ):
            end += 1
        column = points[start:end]
        if column:
            extremes = {
                0,
                min(range(len(column)), key=lambda index: column[index][1]),
                max(range(len(column)), key=lambda index: column[index][1]),
                len(column) - 1,
            }
            kept += [column[index] for index in sorted(extremes)]
        start = end
    return kept


def nice_ticks(low: float, high: float) -> list[float]:
    """About NUM_TICKS round numbers between the two."""
    rough = (high - low) / NUM_TICKS
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _padded(low: float, high: float) -> tuple[float, float]:
    """The range with a twentieth of room at both ends; a constant gets a range too."""
    margin = (high - low) / 20 or abs(high) / 20 or 1.0
    return low - margin, high + margin


def _scale(values: tuple[float, float], begin: float, end: float) -> Callable[[float], float]:
    """Maps a range of values to a range of pixels."""
    factor = (end - begin) / ((values[1] - values[0]) or 1.0)
    return lambda value: begin + (value - values[0]) * factor
