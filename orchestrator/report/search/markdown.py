"""The section of a Search in the Markdown report."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from orchestrator.report.markup import escaped, table_lines
from orchestrator.report.search.rows import shown_trials, summary_lines, trial_columns
from orchestrator.report.search.summary import Search
from orchestrator.trials import Trial


def search_parts(search: Search, plots: Mapping[str, str]) -> list[list[str]]:
    """Return the paragraphs of the section as lists of lines. `plots` has links by title."""
    return [
        [f"## Search {escaped(search.stage)}"],
        _table(search),
        [f"- {escaped(line)}" for line in summary_lines(search)],
        [f"![{escaped(title)}]({quote(link)})" for title, link in plots.items()],
    ]


def _table(search: Search) -> list[str]:
    columns = trial_columns(search)
    headers = [escaped(column.header) for column in columns]
    right = [escaped(column.header) for column in columns if column.is_number]
    rows = (
        [_text(search, trial, column.text(trial)) for column in columns]
        for trial in shown_trials(search)
    )
    return table_lines(headers, rows, right=right)


def _text(search: Search, trial: Trial, text: str) -> str:
    """Escape the text of a cell. The best trial is bold."""
    return f"**{escaped(text)}**" if trial.number == search.summary.best and text else escaped(text)
