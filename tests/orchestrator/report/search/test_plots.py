"""A search's plots: which there are, what they show, and that they are deterministic."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pydantic import JsonValue

from orchestrator.report import Search, make_plots
from orchestrator.report.search import summarise
from orchestrator.report.search.importance import weighed_trials
from orchestrator.report.search.plots.marks import shown_range
from orchestrator.report.search.plots.params import draw_parallel, draw_slice, rail_of
from orchestrator.report.search.plots.progress import draw_best_so_far, draw_curves
from orchestrator.report.search.sampled import SampledParam, varied_params
from orchestrator.trials import Trials, TrialState
from tests.orchestrator.report.search.searched import asha_search, make_trial, make_trials

DIGESTS = """
import hashlib, json
from orchestrator.report.search import Search, make_plots, summarise
from tests.orchestrator.report.search.searched import asha_search

trials = asha_search()
plots = make_plots(Search("search", trials, summarise(trials)))
print(json.dumps({name: hashlib.sha256(plot.svg).hexdigest() for name, plot in plots.items()}))
"""


def _search(trials: Trials) -> Search:
    return Search("search", trials, summarise(trials))


def _drawn(draw: Callable[[Axes], None]) -> Axes:
    axes = Figure(layout="constrained").add_subplot()
    draw(axes)
    return axes


def _xs(line: Line2D) -> list[float]:
    return [float(x) for x in np.asarray(line.get_xdata())]


def _ys(line: Line2D) -> list[float]:
    return [float(y) for y in np.asarray(line.get_ydata())]


def _marks(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """Return the positions of the marks by their label in the legend."""
    return {
        str(marks.get_label()): [(float(x), float(y)) for x, y in np.asarray(marks.get_offsets())]
        for marks in axes.collections
    }


@pytest.fixture(scope="module")
def search() -> Search:
    return _search(asha_search())


def test_each_varied_param_has_a_slice_by_importance(search: Search) -> None:
    names = list(make_plots(search))
    assert names[:3] == ["best-so-far.svg", "curves.svg", "slice-lr.svg"]
    assert names[-1] == "parallel.svg"
    assert sorted(names[3:-1]) == ["slice-drop_path_rate.svg", "slice-mixup.svg", "slice-model.svg"]


def test_plots_are_svg_with_the_same_bytes_in_any_process(search: Search) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DIGESTS], capture_output=True, text=True, check=True
    )
    plots = make_plots(search)
    assert json.loads(done.stdout) == {
        name: sha256(plot.svg).hexdigest() for name, plot in plots.items()
    }
    for plot in plots.values():
        assert ET.fromstring(plot.svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert b"dc:date" not in plot.svg


def test_search_without_a_value_has_no_plots() -> None:
    trials = make_trials(make_trial(1, {"lr": 1}, state=TrialState.FAILED, error="NaN"))
    assert make_plots(_search(trials)) == {}


def test_search_with_one_trial_has_no_plots_of_params() -> None:
    plots = make_plots(_search(make_trials(make_trial(1, {"lr": 1}, 5))))
    assert list(plots) == ["best-so-far.svg", "curves.svg"]


def test_choice_with_dollars_is_not_a_formula() -> None:
    trials = make_trials(make_trial(1, {"data": "$\\frac$"}, 5), make_trial(2, {"data": "b"}, 6))
    assert "slice-data.svg" in make_plots(_search(trials))


def test_param_with_a_slash_in_its_name_is_a_plain_file() -> None:
    trials = make_trials(make_trial(1, {"a/b.c": 1}, 5), make_trial(2, {"a/b.c": 2}, 6))
    assert "slice-a_b.c.svg" in make_plots(_search(trials))


def test_best_so_far_marks_every_trial_with_a_value(search: Search) -> None:
    axes = _drawn(partial(draw_best_so_far, search))
    assert _ys(axes.lines[0]) == [
        value for value in search.summary.best_so_far if value is not None
    ]
    marks = _marks(axes)
    drawn = {label: len(marks[label]) for label in marks if not label.startswith("_")}
    assert drawn == {
        "finished": 14,
        "stopped early": 2,
        "stopped early, lower": 8,
        "failed, lower": 2,
    }
    assert [text.get_text() for text in axes.texts] == ["80.95"]


@pytest.mark.parametrize(
    ("mode", "finished", "stopped", "low", "high"),
    [
        (
            "max",
            (76.0, 81.0),
            (41.0, 80.0),
            66.0,
            81.0,
        ),  # a quarter of the whole span, which is more than the finished span
        ("max", (61.0, 81.0), (60.0,), 60.0, 81.0),  # all values fit into the range
        ("max", (60.0, 80.0), (30.0,), 40.0, 80.0),  # the finished span again below
        ("min", (1.0, 2.0), (9.0,), 1.0, 4.0),
        ("max", (5.0,), (), 5.0, 5.0),
    ],
)
def test_axis_shows_finished_trials_and_some_worse_ones(
    mode: str, finished: tuple[float, ...], stopped: tuple[float, ...], low: float, high: float
) -> None:
    trials = [make_trial(number, {}, 1, value) for number, value in enumerate(finished, 1)]
    trials += [
        make_trial(number, {}, value, state=TrialState.STOPPED)
        for number, value in enumerate(stopped, 10)
    ]
    assert shown_range(_search(make_trials(*trials, mode=mode))) == (low, high)


def test_long_name_below_its_axis_is_broken_at_its_dots() -> None:
    name = "model.stages.block_1.rate"
    trials = make_trials(make_trial(1, {name: 1}, 5), make_trial(2, {name: 2}, 6))
    axes = _drawn(
        partial(draw_parallel, _search(trials), trials.trials, varied_params(trials.trials))
    )
    assert axes.get_xticklabels()[0].get_text() == "model.stages.\nblock_1.rate"


def test_axis_of_values_marks_trials_outside_its_range(search: Search) -> None:
    trials = weighed_trials(search.trials.trials)
    axes = _drawn(partial(draw_parallel, search, trials, varied_params(trials)))
    assert "< 65.5" in [text.get_text() for text in axes.texts]


def test_curves_have_a_line_per_trial_and_a_legend_per_state(search: Search) -> None:
    axes = _drawn(partial(draw_curves, search))
    assert len(axes.lines) == len(search.trials.trials)
    figure = axes.get_figure()
    assert figure is not None
    assert sorted(text.get_text() for legend in figure.legends for text in legend.get_texts()) == [
        *("best, trial 14", "failed", "finished", "stopped early")
    ]


def test_curve_omits_points_without_a_value() -> None:
    axes = _drawn(partial(draw_curves, _search(make_trials(make_trial(1, {}, 1, None, 3)))))
    assert _xs(axes.lines[0]) == [1, 3]
    assert _ys(axes.lines[0]) == [1, 3]


@pytest.mark.parametrize(
    ("name", "scale"), [("lr", "log"), ("drop_path_rate", "linear"), ("mixup", "linear")]
)
def test_slice_is_logarithmic_if_the_samples_are(search: Search, name: str, scale: str) -> None:
    trials = weighed_trials(search.trials.trials)
    (param,) = (param for param in varied_params(trials) if param.name == name)
    axes = _drawn(partial(draw_slice, search, trials, param))
    assert axes.get_xscale() == scale
    shown = shown_range(search)
    assert {position for positions in _marks(axes).values() for position in positions} == {
        (trial.params[name], shown.clamped(trial.value))
        for trial in trials
        if trial.value is not None
    }


def test_slice_of_choices_has_their_names(search: Search) -> None:
    trials = weighed_trials(search.trials.trials)
    (param,) = (param for param in varied_params(trials) if param.name == "model")
    axes = _drawn(partial(draw_slice, search, trials, param))
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["cat_tiny", '{"depths":[1,1,2,1],"embed_dim":64}']
    assert {round(x) for positions in _marks(axes).values() for x, _ in positions} == {0, 1}


def test_parallel_coordinates_draw_the_best_trial_on_top(search: Search) -> None:
    trials = weighed_trials(search.trials.trials)
    axes = _drawn(partial(draw_parallel, search, trials, varied_params(trials)))
    lines = [line for line in axes.lines if len(_xs(line)) == 5]
    assert len(lines) == len(trials)
    top = max(lines, key=lambda line: line.get_zorder())
    assert _ys(top)[-1] == 1
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        *("lr", "drop_path_rate", "mixup", "model", "top1 [%]")
    ]


@pytest.mark.parametrize(
    ("values", "positions", "ticks"),
    [
        ((1e-4, 1e-3, 1e-2), (0, 0.5, 1), ("0.0001", "0.001", "0.01")),
        ((0.0, 0.8, 0.2), (0, 1, 0.25), ("0", "0.2", "0.8")),
        (("b", "a"), (1, 0), ("a", "b")),
        ((1, 2, 3, 4, 5, 6, 7, 8, 9), tuple(k / 8 for k in range(9)), ("1", "3", "5", "7", "9")),
        ((0.0, 1.0, 1.01), (0, 1 / 1.01, 1), ("0", "0.253", "0.505", "0.758", "1.01")),
        ((5.0,), (0.5,), ("5",)),
    ],
)
def test_vertical_axis_runs_from_the_lowest_to_the_highest(
    values: tuple[JsonValue, ...], positions: tuple[float, ...], ticks: tuple[str, ...]
) -> None:
    rail = rail_of(SampledParam("x", values))
    assert rail.positions == pytest.approx(positions)
    assert tuple(text for _, text in rail.ticks) == ticks
