"""The published tables, with our numbers in each row. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.report.cells import Cell
from orchestrator.report.published import OUR_METRICS, PublishedRow
from orchestrator.spec import Job


@dataclass(frozen=True)
class OurRow:
    """A stage that is compared with a published row."""

    stage: str
    shown_label: str
    """`reproduction`, or the label that says why not."""
    differs: str | None
    cells: Mapping[str, Cell]
    """By the published metric."""


@dataclass(frozen=True)
class PaperRow:
    row: PublishedRow
    name: str
    ours: tuple[OurRow, ...]
    """Empty if no stage was run for it."""


@dataclass(frozen=True)
class PaperTable:
    title: str
    metrics: tuple[str, ...]
    rows: tuple[PaperRow, ...]

    @property
    def num_ours(self) -> int:
        """Rows that a stage is compared with."""
        return sum(bool(row.ours) for row in self.rows)


def make_tables(
    job: Job, cells: tuple[Cell, ...], rows: Mapping[str, PublishedRow]
) -> tuple[PaperTable, ...]:
    """Every published row, in the order of the paper, with all stages that are compared with it."""
    of_stage: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        of_stage.setdefault(cell.stage, {})[cell.metric] = cell
    titles = dict.fromkeys(row.table for row in rows.values())
    return tuple(
        _table(title, [row for row in rows.values() if row.table == title], job, of_stage)
        for title in titles
    )


def _table(
    title: str, rows: list[PublishedRow], job: Job, of_stage: Mapping[str, Mapping[str, Cell]]
) -> PaperTable:
    metrics = dict.fromkeys(metric for row in rows for metric in row.metrics)
    return PaperTable(
        title,
        tuple(metrics),
        tuple(PaperRow(row, row.published_as, _ours(row, job, of_stage)) for row in rows),
    )


def _ours(
    row: PublishedRow, job: Job, of_stage: Mapping[str, Mapping[str, Cell]]
) -> tuple[OurRow, ...]:
    found: list[OurRow] = []
    for name, stage in job.stages.items():
        measured = {
            metric: cell
            for metric, cell in of_stage.get(name, {}).items()
            if cell.value is not None
        }
        if stage.published != row.id or not measured:
            continue
        cells = {
            metric: _first(measured, (metric, *OUR_METRICS.get(metric, ())))
            for metric in row.metrics
        }
        compared = next((cell for cell in measured.values() if cell.published is not None), None)
        found.append(
            OurRow(
                stage=name,
                shown_label=compared.shown_label if compared else "",
                differs=compared.differs if compared else None,
                cells={metric: cell for metric, cell in cells.items() if cell is not None},
            )
        )
    return tuple(found)


def _first(cells: Mapping[str, Cell], names: tuple[str, ...]) -> Cell | None:
    return next((cells[name] for name in names if name in cells), None)
