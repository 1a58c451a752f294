"""A stage's section of the page: its numbers, curves, details and lineage."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.artifact import Manifest
from orchestrator.history import StageHistory, StageState
from orchestrator.report.audit import audit_texts
from orchestrator.report.cells import Cell, CellVerdict
from orchestrator.report.charts import Chart, make_charts
from orchestrator.report.content import ReportContent
from orchestrator.report.lineage import Lineage
from orchestrator.report.page.details import Budget, Details, make_details
from orchestrator.report.search import Search, make_plots
from orchestrator.report.search.rows import summary_lines

FIRST_CURVES = ("loss", "lr")
"""The curves that come first; then the stage's own metrics."""


@dataclass(frozen=True)
class StageView:
    """A stage's section of the page."""

    name: str
    anchor: str
    kind: str
    state: str
    error: str | None
    cells: tuple[Cell, ...]
    verdict: CellVerdict | None
    """Its worst."""
    best: Cell | None
    """The metric that its kind is judged by."""
    charts: tuple[Chart, ...]
    history: StageHistory
    took_s: float | None
    audit: tuple[str, ...] | None
    """What differs from the reference recipe."""
    lineage: Lineage | None
    details: Details | None
    search: SearchView | None


@dataclass(frozen=True)
class SearchView:
    lines: tuple[str, ...]
    plots: tuple[tuple[str, str], ...]
    """Title and `data:` URI."""


def make_stage_view(
    name: str, cells: tuple[Cell, ...], content: ReportContent, budget: Budget, *, anchor: str
) -> StageView:
    """The section of the stage `name`, whose numbers are `cells`."""
    stage = content.job.stages[name]
    manifest = content.manifests.get(name)
    state = content.states.get(name) or StageState("done" if manifest else "waiting")
    history = content.histories.stages.get(content.keys.get(name, ""), StageHistory())
    search = next((search for search in content.searches if search.stage == name), None)
    audit = content.audits.get(name)
    return StageView(
        name=name,
        anchor=anchor,
        kind=stage.kind.name,
        state=state.state,
        error=state.error,
        cells=cells,
        verdict=_worst(cells),
        best=next((cell for cell in cells if cell.metric in stage.metrics[:1]), None),
        charts=make_charts(history, first=(*FIRST_CURVES, *stage.metrics)),
        history=history,
        took_s=_took_s(manifest, history),
        audit=None if audit is None else tuple(audit_texts(audit)),
        lineage=content.lineages.get(name),
        details=make_details(content.details[name], budget) if name in content.details else None,
        search=_search_view(search, budget) if search else None,
    )


def _search_view(search: Search, budget: Budget) -> SearchView:
    drawn = (
        (plot.title, budget.data_uri(plot.svg, "image/svg+xml"))
        for plot in make_plots(search).values()
    )
    return SearchView(
        summary_lines(search), tuple((title, uri) for title, uri in drawn if uri is not None)
    )


def _worst(cells: tuple[Cell, ...]) -> CellVerdict | None:
    expected = {cell.verdict for cell in cells if cell.expected is not None}
    worst_first = (CellVerdict.FAIL, CellVerdict.NOT_RUN, CellVerdict.PASS)
    return next((verdict for verdict in worst_first if verdict in expected), None)


def _took_s(manifest: Manifest | None, history: StageHistory) -> float | None:
    """Seconds of work, lost attempts included; of an older manifest, from its start to its end."""
    if history.attempts:
        return sum(attempt.ended_at_s - attempt.began_at_s for attempt in history.attempts)
    provenance = manifest.provenance if manifest else {}
    begin, end = provenance.get("started_at_s"), provenance.get("finished_at_s")
    if isinstance(begin, int | float) and isinstance(end, int | float):
        return end - begin
    return None
