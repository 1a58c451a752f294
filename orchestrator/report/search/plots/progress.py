"""Plots of how a search went: the best value over its trials, each trial's curve over its epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.report.numbers import number_text
from orchestrator.report.search.plots.style import (
    BEST,
    FAILED,
    MUTED,
    TRIAL,
    legend_above,
    metric_label,
    whole_numbers,
)
from orchestrator.report.search.summary import Search
from orchestrator.trials import Trial, TrialState

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVE_LABELS = {TrialState.FINISHED: "finished", TrialState.STOPPED: "stopped early", TrialState.FAILED: "failed"}
CURVE_COLOURS = {TrialState.FINISHED: TRIAL, TrialState.STOPPED: MUTED, TrialState.FAILED: FAILED}


def draw_best_so_far(search: Search, axes: Axes) -> None:
    """Every trial's value at its number, and the best until then as a line of steps."""
    so_far = [
        (number, value)
        for number, value in zip(_numbers(search), search.summary.best_so_far, strict=True)
        if value is not None
    ]
    axes.step(_xs(so_far), _ys(so_far), where="post", color=BEST, linewidth=2, label="best so far")
    draw_trials(search, axes, [(float(trial.number), trial) for trial in search.trials.trials])
    number, value = so_far[-1]
    _label(axes, number, value, number_text(value))
    axes.set(title="Best so far", xlabel="trial", ylabel=metric_label(search.trials.metric))
    whole_numbers("x", axes)
    legend_above(axes)


def draw_curves(search: Search, axes: Axes) -> None:
    """The metric over epochs, a line a trial; the best one on top."""
    told: set[TrialState] = set()
    for trial in search.trials.trials:
        if trial.number != search.summary.best:
            label = None if trial.state in told else CURVE_LABELS[trial.state]
            _draw_curve(trial, axes, CURVE_COLOURS[trial.state], label)
            told.add(trial.state)
    best = search.trials.best()
    if best is not None:
        _draw_curve(best, axes, BEST, f"best, trial {best.number}", is_best=True)
    axes.set(title="Trials over epochs", xlabel="epoch", ylabel=metric_label(search.trials.metric))
    whole_numbers("x", axes)
    legend_above(axes)


def draw_trials(
    search: Search, axes: Axes, places: Sequence[tuple[float, Trial]], *, best_label: str | None = None
) -> None:
    """A mark for each trial that has a value, by how it ended: a disc, a ring, a cross; the best a disc of its own."""
    for state, look in _MARKS.items():
        points = [(x, trial.value) for x, trial in places if trial.state is state and trial.value is not None]
        if points:
            axes.scatter(_xs(points), _ys(points), zorder=3, label=CURVE_LABELS[state], **look)
    best = [
        (x, value) for x, trial in places if trial.number == search.summary.best and (value := trial.value) is not None
    ]
    axes.scatter(_xs(best), _ys(best), s=70, color=BEST, edgecolors="white", linewidths=1.2, zorder=4, label=best_label)


_MARKS: Mapping[TrialState, Mapping[str, Any]] = {
    TrialState.FINISHED: {"s": 34, "color": TRIAL},
    TrialState.STOPPED: {"s": 28, "facecolors": "white", "edgecolors": MUTED, "linewidths": 1.3},
    TrialState.FAILED: {"s": 30, "marker": "x", "color": FAILED, "linewidths": 1.5},
}


def _draw_curve(trial: Trial, axes: Axes, colour: str, label: str | None, *, is_best: bool = False) -> None:
    points = [(point.epoch, point.value) for point in trial.curve if point.value is not None]
    if not points:
        return
    axes.plot(
        _xs(points),
        _ys(points),
        color=colour,
        linewidth=2.2 if is_best else 1.2,
        alpha=1 if is_best else 0.75,
        zorder=3 if is_best else 2,
        label=label,
        marker="o",
        markersize=4.5 if is_best else 3,
        markevery=[len(points) - 1],  # where it ended; of a trial of one epoch it is all that there is
    )


def _xs(points: Sequence[tuple[float, float]]) -> list[float]:
    return [x for x, _ in points]


def _ys(points: Sequence[tuple[float, float]]) -> list[float]:
    return [y for _, y in points]


def _label(axes: Axes, x: float, y: float, text: str) -> None:
    axes.annotate(text, (x, y), xytext=(7, 0), textcoords="offset points", color=BEST, va="center")


def _numbers(search: Search) -> list[int]:
    return sorted(trial.number for trial in search.trials.trials)
