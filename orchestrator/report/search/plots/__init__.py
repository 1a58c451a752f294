"""The plots of a Search as SVG. matplotlib is imported only to draw one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from orchestrator.report.search.importance import weighed_trials
from orchestrator.report.search.plots.params import draw_parallel, draw_slice
from orchestrator.report.search.plots.progress import draw_best_so_far, draw_curves
from orchestrator.report.search.plots.style import svg_of
from orchestrator.report.search.sampled import varied_params
from orchestrator.report.search.summary import Search

RAIL_IN = 1.6
"""Width of each axis of parallel coordinates, in inches."""


class Plot(NamedTuple):
    title: str
    svg: bytes


def make_plots(search: Search) -> Mapping[str, Plot]:
    """Return the plots by file name; empty if no trial has a value.

    They are `best-so-far.svg`, `curves.svg`, a `slice-PARAM.svg` per varied param, the most
    important first, and `parallel.svg`.
    """
    if search.summary.best is None:
        return {}
    trials = weighed_trials(search.trials.trials)
    importances = search.summary.importances or {}
    params = sorted(varied_params(trials), key=lambda param: -importances.get(param.name, 0.0))
    plots = {
        "best-so-far.svg": Plot("Best so far", svg_of(partial(draw_best_so_far, search))),
        "curves.svg": Plot("Trials over epochs", svg_of(partial(draw_curves, search))),
    }
    for param in params:
        draw = partial(draw_slice, search, trials, param)
        plots[f"slice-{_file_name(param.name)}.svg"] = Plot(
            f"{search.trials.metric} over {param.name}", svg_of(draw)
        )
    if params:
        draw = partial(draw_parallel, search, trials, params)
        width_in = max(7.2, RAIL_IN * (len(params) + 1))
        plots["parallel.svg"] = Plot("Params and their values", svg_of(draw, width_in=width_in))
    return plots


def _file_name(param: str) -> str:
    return re.sub(r"[^\w.-]", "_", param)
