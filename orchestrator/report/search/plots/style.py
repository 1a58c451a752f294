"""The style of a search's plots, and the conversion of a figure to SVG, always with the same
bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orchestrator.artifact import unit_of
from orchestrator.trials import TrialState

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#24292f"
MUTED = "#8c959f"
GRID = "#e6e9ed"
TRIAL = "#4f8bc9"
BEST = "#d9541e"
FAILED = "#a40e26"
STATE_COLOURS = {TrialState.FINISHED: TRIAL, TrialState.STOPPED: MUTED, TrialState.FAILED: FAILED}

WIDTH_IN, HEIGHT_IN = 7.2, 3.9

_LOOK: dict[Any, Any] = {
    "svg.hashsalt": "orchestrator",  # for ids in the file, which are random by default
    "svg.fonttype": "path",  # looks the same on every machine
    "font.family": "DejaVu Sans",  # part of matplotlib
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
}


def svg_of(
    draw: Callable[[Axes], None], *, width_in: float = WIDTH_IN, height_in: float = HEIGHT_IN
) -> bytes:
    """Return the SVG of a figure with one pair of axes, which `draw` fills."""
    import matplotlib as mpl  # noqa: PLC0415  takes half a second, and only --plots needs it

    with mpl.rc_context(_LOOK):
        file = io.BytesIO()
        _figure(draw, width_in, height_in).savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def metric_label(metric: str) -> str:
    """Return a label such as `top1 [%]`."""
    unit = unit_of(metric)
    return f"{metric} [{unit}]" if unit else metric


def whole_numbers(axis_name: str, axes: Axes) -> None:
    """Set ticks only at whole numbers, for trials and epochs."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    axis = axes.xaxis if axis_name == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def plain_log_x(axes: Axes) -> None:
    """Make the axis logarithmic, with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def legend_below(axes: Axes) -> None:
    """Draw the legend in one row below the axes, where it hides no point."""
    figure = axes.get_figure()
    assert figure is not None
    figure.legend(
        loc="outside lower center", ncols=6, fontsize=8.5, handletextpad=0.4, columnspacing=1.4
    )


def _figure(draw: Callable[[Axes], None], width_in: float, height_in: float) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    draw(figure.add_subplot())
    return figure
