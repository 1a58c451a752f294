"""A Search in the terminal: a table of trials, a sparkline and lines. Prints nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from orchestrator.numbers import number_text
from orchestrator.report.search.rows import shown_trials, summary_lines, trial_columns
from orchestrator.report.search.summary import Search
from orchestrator.trials import Trial, TrialState

BARS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 60
STYLES = {TrialState.FINISHED: "", TrialState.STOPPED: "dim", TrialState.FAILED: "red"}


def make_trials_table(search: Search, *, width: int, is_ascii: bool) -> Table:
    """Return a table with a row per trial, best first, for lines of `width` characters."""
    title = f"Search {search.stage}"
    table = Table(title=title, box=box.ASCII if is_ascii else box.SIMPLE_HEAD, title_justify="left")
    columns = trial_columns(search, width=width)
    for column in columns:
        # only long columns fold, so that numbers always stay whole
        table.add_column(
            Text(column.header),
            justify="right" if column.is_number else "left",
            no_wrap=not column.is_long,
            overflow="fold",
        )
    for trial in shown_trials(search):
        table.add_row(
            *(Text(column.text(trial)) for column in columns), style=_style(search, trial)
        )
    return table


def search_lines(search: Search, *, is_ascii: bool) -> tuple[str, ...]:
    """Return the lines below the table. If the terminal can show blocks, they include the best so
    far as a sparkline."""
    curve = "" if is_ascii else _best_so_far(search)
    return (*summary_lines(search), *([curve] if curve else []))


def sparkline(values: Sequence[float | None], *, is_higher_better: bool = True) -> str:
    """Return a bar per value, and a space for None. The tallest bar is the best. Long lists are
    thinned to SPARKLINE_WIDTH bars and keep the last value."""
    step = -(-len(values) // SPARKLINE_WIDTH) or 1
    drawn = values[::-1][::step][::-1]
    known = [value for value in drawn if value is not None]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)

    def bar(value: float | None) -> str:
        if value is None:
            return " "
        share = (value - low) / span if span else 1.0
        return BARS[round((share if is_higher_better or not span else 1 - share) * (len(BARS) - 1))]

    return "".join(map(bar, drawn))


def _best_so_far(search: Search) -> str:
    values = search.summary.best_so_far
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:  # noqa: PLR2004  a constant line shows nothing
        return ""
    bars = sparkline(values, is_higher_better=search.trials.mode == "max")
    return f"best so far: {number_text(known[0])} {bars} {number_text(known[-1])}"


def _style(search: Search, trial: Trial) -> str:
    return "bold green" if trial.number == search.summary.best else STYLES[trial.state]
