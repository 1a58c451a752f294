"""A Search -> what the terminal shows of it: a table of trials, a sparkline, lines. Prints
nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from orchestrator.report.numbers import number_text
from orchestrator.report.search.rows import shown_trials, summary_lines, trial_columns
from orchestrator.report.search.summary import Search
from orchestrator.trials import Trial, TrialState

BARS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 60
STYLES = {TrialState.FINISHED: "", TrialState.STOPPED: "dim", TrialState.FAILED: "red"}


def make_trials_table(search: Search, *, width: int, is_ascii: bool) -> Table:
    """A row a trial, best first, for lines of `width` characters."""
    title = f"Search {search.stage}"
    table = Table(title=title, box=box.ASCII if is_ascii else box.SIMPLE_HEAD, title_justify="left")
    columns = trial_columns(search, width=width)
    for column in columns:
        # only what may be long folds: the numbers are what a table of trials is read for
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
    """What is said below the table; the best so far is drawn where blocks can be shown."""
    curve = "" if is_ascii else _best_so_far(search)
    return (*summary_lines(search), *([curve] if curve else []))


def sparkline(values: Sequence[float | None], *, is_higher_better: bool = True) -> str:
    """A bar a value, a space for None; the tallest is the best. At most SPARKLINE_WIDTH, the last
    value among them."""
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
    if len(set(known)) < 2:  # noqa: PLR2004  a line that never rises shows nothing
        return ""
    bars = sparkline(values, is_higher_better=search.trials.mode == "max")
    return f"best so far: {number_text(known[0])} {bars} {number_text(known[-1])}"


def _style(search: Search, trial: Trial) -> str:
    return "bold green" if trial.number == search.summary.best else STYLES[trial.state]
