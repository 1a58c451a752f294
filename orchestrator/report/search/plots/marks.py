"""The marks of trials in plots of their values, and the range of values that a plot shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.report.search.plots.style import BEST, FAILED, MUTED, STATE_COLOURS, TRIAL
from orchestrator.report.search.summary import Search, is_rival
from orchestrator.trials import Trial, TrialState

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STATE_LABELS = {
    TrialState.FINISHED: "finished",
    TrialState.STOPPED: "stopped early",
    TrialState.FAILED: "failed",
}

MIN_WORSE_SHARE = 0.25
"""Minimum share of the span of all values that is shown below the trials that trained as long as
the best one."""

_MARKS: Mapping[TrialState, Mapping[str, Any]] = {
    TrialState.FINISHED: {"s": 34, "color": TRIAL},
    TrialState.STOPPED: {"s": 28, "facecolors": "white", "edgecolors": MUTED, "linewidths": 1.3},
    TrialState.FAILED: {"s": 30, "marker": "x", "color": FAILED, "linewidths": 1.5},
}


class ShownRange(NamedTuple):
    """The values from `low` to `high`."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, float) and self.low <= value <= self.high

    def clamped(self, value: float) -> float:
        return min(max(value, self.low), self.high)


def shown_range(search: Search) -> ShownRange:
    """Return the range of the trials that trained as long as the best one, plus the same span on
    the worse side.

    Trials that were stopped in their first epochs are so far off that, in a full range, the others
    would look alike.
    """
    best = search.trials.best()
    assert best is not None, "a search without a value has no plots"
    values = [trial.value for trial in search.trials.trials if trial.value is not None]
    rivals = [
        trial.value
        for trial in search.trials.trials
        if trial.value is not None and is_rival(trial, best)
    ]
    more = max(max(rivals) - min(rivals), MIN_WORSE_SHARE * (max(values) - min(values)))
    if search.trials.mode == "max":
        return ShownRange(max(min(values), min(rivals) - more), max(values))
    return ShownRange(min(values), min(max(values), max(rivals) + more))


def draw_trials(
    search: Search,
    axes: Axes,
    positions: Sequence[tuple[float, Trial]],
    *,
    best_label: str | None = None,
) -> None:
    """Draw a mark for each trial with a value: a disc if finished, a ring if stopped, a cross if
    failed.

    The best trial has its own disc. An arrowhead at the edge marks a trial outside the shown range.
    """
    shown = shown_range(search)
    for state, look in _MARKS.items():
        points = [
            (x, trial.value)
            for x, trial in positions
            if trial.state is state and trial.value is not None
        ]
        inside = [(x, value) for x, value in points if value in shown]
        if inside:
            axes.scatter(xs_of(inside), ys_of(inside), zorder=3, label=STATE_LABELS[state], **look)
        _draw_beyond(
            axes,
            [(x, shown.clamped(value)) for x, value in points if value not in shown],
            state,
            search,
        )
    best = [
        (x, trial.value)
        for x, trial in positions
        if trial.number == search.summary.best and trial.value is not None
    ]
    axes.scatter(
        xs_of(best),
        ys_of(best),
        s=70,
        color=BEST,
        edgecolors="white",
        linewidths=1.2,
        zorder=4,
        label=best_label,
    )


def xs_of(points: Sequence[tuple[float, float]]) -> list[float]:
    return [x for x, _ in points]


def ys_of(points: Sequence[tuple[float, float]]) -> list[float]:
    return [y for _, y in points]


def _draw_beyond(
    axes: Axes, points: Sequence[tuple[float, float]], state: TrialState, search: Search
) -> None:
    if not points:
        return
    marker, where = ("v", "lower") if search.trials.mode == "max" else ("^", "higher")
    colour, label = STATE_COLOURS[state], f"{STATE_LABELS[state]}, {where}"
    axes.scatter(
        xs_of(points),
        ys_of(points),
        s=30,
        marker=marker,
        facecolors="white",
        edgecolors=colour,
        zorder=3,
        label=label,
    )
