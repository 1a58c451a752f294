"""Summarise the trials of a search and show them in the terminal, as Markdown, JSON and plots.

Imports neither torch nor ray. Imports optuna and matplotlib only when they are needed."""

from orchestrator.report.search.document import search_json
from orchestrator.report.search.markdown import search_parts
from orchestrator.report.search.plots import Plot, make_plots
from orchestrator.report.search.summary import Search, SearchSummary, make_searches, summarise
from orchestrator.report.search.terminal import make_trials_table, search_lines

__all__ = [
    "Plot",
    "Search",
    "SearchSummary",
    "make_plots",
    "make_searches",
    "make_trials_table",
    "search_json",
    "search_lines",
    "search_parts",
    "summarise",
]
