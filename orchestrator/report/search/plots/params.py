"""Plots of the effect of params: the value over each param, and all params as parallel
coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from textwrap import wrap
from typing import TYPE_CHECKING

from orchestrator.report.search.plots.marks import draw_trials, shown_range
from orchestrator.report.search.plots.style import (
    BEST,
    INK,
    MUTED,
    legend_below,
    metric_label,
    plain_log_x,
)
from orchestrator.report.search.sampled import SampledParam
from orchestrator.report.search.summary import Search, best_first
from orchestrator.spec.faults import cut
from orchestrator.trials import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GOLDEN = 0.6180339887
JITTER = 0.25
"""Jitter of a choice's marks, as a share of the distance between two choices."""
NUM_TICKS = 5
MIN_GAP = 0.08
"""Minimum gap between two ticks, as a share of a vertical axis."""
MAX_NAME = 18
"""Maximum characters per line of a name below its axis."""
MAX_CHOICE = 16
"""Maximum characters of a choice next to its axis."""


def draw_slice(search: Search, trials: Sequence[Trial], param: SampledParam, axes: Axes) -> None:
    """Draw each trial's value over its `param`. The values of `param` are in the order of
    `trials`."""
    numbers = param.numbers
    positions = numbers or [
        _column(param, text, trial) for text, trial in zip(param.texts, trials, strict=True)
    ]
    draw_trials(
        search,
        axes,
        list(zip(positions, trials, strict=True)),
        best_label=f"best, trial {search.summary.best}",
    )
    if numbers is None:
        axes.set_xticks(range(len(param.choices)), [cut(choice) for choice in param.choices])
        axes.grid(visible=False, axis="x")
        axes.set_xlim(-0.5, len(param.choices) - 0.5)
    elif param.is_log:
        plain_log_x(axes)
    share = (search.summary.importances or {}).get(param.name)
    title = param.name if share is None else f"{param.name} (importance {share:.0%})"
    axes.set(title=title, xlabel=param.name, ylabel=metric_label(search.trials.metric))
    legend_below(axes)


def _column(param: SampledParam, text: str, trial: Trial) -> float:
    """Return the position of a choice, shifted a little by the trial's number, so that equal values
    do not overlap."""
    return param.choices.index(text) + JITTER * ((trial.number * GOLDEN) % 1 - 0.5)


@dataclass(frozen=True)
class Rail:
    """One vertical axis of parallel coordinates: each trial's position from 0 to 1, and the
    ticks."""

    name: str
    positions: tuple[float, ...]
    ticks: tuple[tuple[float, str], ...]


def draw_parallel(
    search: Search, trials: Sequence[Trial], params: Sequence[SampledParam], axes: Axes
) -> None:
    """Draw a line per trial through its params to its value. Better trials are darker, the best one
    is on top."""
    rails = [*map(rail_of, params), _value_rail(search, trials)]
    order = [trial.number for trial in reversed(best_first(search.trials))]
    for index in sorted(range(len(trials)), key=lambda index: order.index(trials[index].number)):
        is_best = trials[index].number == search.summary.best
        heights = [rail.positions[index] for rail in rails]
        colour, width = (
            (BEST, 2.6)
            if is_best
            else (_shade(order.index(trials[index].number) / len(order)), 1.3)
        )
        axes.plot(
            range(len(rails)), heights, color=colour, linewidth=width, zorder=4 if is_best else 2
        )
    for position, rail in enumerate(rails):
        _draw_rail(axes, position, rail)
    axes.set(title="Params and their values", xlim=(-0.25, len(rails) - 0.65), ylim=(-0.03, 1.05))
    names = [*(_broken(param.name) for param in params), metric_label(search.trials.metric)]
    axes.set_xticks(range(len(rails)), names)
    axes.tick_params(axis="x", length=0, pad=6)
    axes.yaxis.set_visible(False)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def rail_of(param: SampledParam) -> Rail:
    numbers = param.numbers
    if numbers is None:
        heights = {
            choice: _share(position, 0, len(param.choices) - 1)
            for position, choice in enumerate(param.choices)
        }
        ticks = tuple((height, _short(choice)) for choice, height in heights.items())
        return Rail(param.name, tuple(heights[text] for text in param.texts), ticks)
    scaled = [log(number) for number in numbers] if param.is_log else list(numbers)
    low, high = min(scaled), max(scaled)
    ticks = tuple(
        (_share(mark, low, high), f"{exp(mark) if param.is_log else mark:.3g}")
        for mark in _marks(scaled)
    )
    return Rail(param.name, tuple(_share(value, low, high) for value in scaled), ticks)


def _marks(values: Sequence[float]) -> list[float]:
    """Return the positions of ticks: the values themselves if they are few and far enough apart,
    otherwise even steps."""
    found, low, span = sorted(set(values)), min(values), max(values) - min(values)
    are_apart = all(after - before >= span * MIN_GAP for before, after in pairwise(found))
    if len(found) <= NUM_TICKS and are_apart:
        return found
    return [low + span * tick / (NUM_TICKS - 1) for tick in range(NUM_TICKS)]


def _value_rail(search: Search, trials: Sequence[Trial]) -> Rail:
    """Return the axis of the metric. Trials outside the shown range end at its edge, where the tick
    has a `<` or `>`."""
    shown = shown_range(search)
    values = [trial.value for trial in trials if trial.value is not None]
    rail = rail_of(
        SampledParam(search.trials.metric, tuple(shown.clamped(value) for value in values))
    )
    if all(value in shown for value in values):
        return rail
    end, sign = (0, "<") if search.trials.mode == "max" else (-1, ">")
    ticks = list(rail.ticks)
    ticks[end] = (ticks[end][0], f"{sign} {ticks[end][1]}")
    return Rail(rail.name, rail.positions, tuple(ticks))


def _broken(name: str) -> str:
    """Break a dotted path into lines that do not overlap the next axis' name."""
    return "\n".join(line.replace(" ", "") for line in wrap(name.replace(".", ". "), MAX_NAME))


def _short(choice: str) -> str:
    """Cut a choice so that it ends before the next axis."""
    return choice if len(choice) <= MAX_CHOICE else f"{choice[: MAX_CHOICE - 3]}..."


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _shade(share: float) -> tuple[float, float, float]:
    """Return a colour from pale to deep blue."""
    pale, deep = (0.80, 0.86, 0.92), (0.08, 0.29, 0.53)
    red, green, blue = (
        start + share * (end - start) for start, end in zip(pale, deep, strict=True)
    )
    return red, green, blue


def _draw_rail(axes: Axes, position: int, rail: Rail) -> None:
    axes.plot([position, position], [0, 1], color=MUTED, linewidth=1, zorder=3)
    for height, text in dict(rail.ticks).items():
        axes.plot(
            [position - 0.015, position + 0.015],
            [height, height],
            color=MUTED,
            linewidth=1,
            zorder=3,
        )
        halo = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.8}
        axes.text(
            position + 0.03, height, text, fontsize=8, color=INK, va="center", zorder=5, bbox=halo
        )
