"""Plots of the progress of a search: the best value over trials, and each trial's curve over
epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.numbers import number_text
from orchestrator.report.search.plots.marks import STATE_LABELS, draw_trials, xs_of, ys_of
from orchestrator.report.search.plots.style import (
    BEST,
    STATE_COLOURS,
    legend_below,
    metric_label,
    whole_numbers,
)
from orchestrator.report.search.summary import Search
from orchestrator.trials import Trial, TrialState

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_best_so_far(search: Search, axes: Axes) -> None:
    """Draw every trial's value at its number, and the best value so far as steps."""
    so_far = [
        (number, value)
        for number, value in zip(_numbers(search), search.summary.best_so_far, strict=True)
        if value is not None
    ]
    axes.step(
        xs_of(so_far), ys_of(so_far), where="post", color=BEST, linewidth=2, label="best so far"
    )
    draw_trials(search, axes, [(float(trial.number), trial) for trial in search.trials.trials])
    number, value = so_far[-1]
    _label(axes, number, value, number_text(value))
    axes.set(title="Best so far", xlabel="trial", ylabel=metric_label(search.trials.metric))
    whole_numbers("x", axes)
    legend_below(axes)


def draw_curves(search: Search, axes: Axes) -> None:
    """Draw the metric over epochs, a line per trial, with the best one on top."""
    labelled: set[TrialState] = set()
    for trial in search.trials.trials:
        if trial.number != search.summary.best:
            label = None if trial.state in labelled else STATE_LABELS[trial.state]
            _draw_curve(trial, axes, STATE_COLOURS[trial.state], label)
            labelled.add(trial.state)
    best = search.trials.best()
    if best is not None:
        _draw_curve(best, axes, BEST, f"best, trial {best.number}", is_best=True)
    axes.set(title="Trials over epochs", xlabel="epoch", ylabel=metric_label(search.trials.metric))
    whole_numbers("x", axes)
    legend_below(axes)


def _draw_curve(
    trial: Trial, axes: Axes, colour: str, label: str | None, *, is_best: bool = False
) -> None:
    points = [(point.epoch, point.value) for point in trial.curve if point.value is not None]
    if not points:
        return
    # Mark the end of the curve. For a trial of one epoch, the mark is all that is visible.
    axes.plot(
        xs_of(points),
        ys_of(points),
        color=colour,
        linewidth=2.2 if is_best else 1.2,
        alpha=1 if is_best else 0.75,
        zorder=3 if is_best else 2,
        label=label,
        marker="o",
        markersize=4.5 if is_best else 3,
        markevery=[len(points) - 1],
    )


def _label(axes: Axes, x: float, y: float, text: str) -> None:
    axes.annotate(text, (x, y), xytext=(7, 0), textcoords="offset points", color=BEST, va="center")


def _numbers(search: Search) -> list[int]:
    return sorted(trial.number for trial in search.trials.trials)
