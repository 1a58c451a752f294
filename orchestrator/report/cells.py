"""Cells: each number of the report next to the expected and the published one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from orchestrator.artifact import Manifest, Value, unit_of
from orchestrator.report.deviations import PublishedDeviation, find_deviations, label_of
from orchestrator.report.published import PublishedRow
from orchestrator.spec import Job, Stage


class CellVerdict(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    NOT_RUN = "not_run"


class Cell(Value):
    """A number in the report. `key` is the Key of the manifest that it comes from."""

    stage: str
    metric: str
    value: float | None
    unit: str
    expected: str | None
    published: float | None = None
    published_source: str | None = None
    delta: float | None = None
    """`value` minus `published` in the cell's unit (percentage points for %)."""
    verdict: CellVerdict | None
    key: str | None
    label: str | None = None
    """Why the value is not a reproduction of the published one. None for a reproduction, and if no
    value was published."""
    differs: str | None = None
    """How recipe and data differ from the published ones, such as `epochs 10 instead of 300; lr
    searched`."""
    split: str | None = None
    """The split that it was measured on, such as `val`; None if it was not measured."""
    num_samples: int | None = None
    """The number of samples that it was measured on; None if it needs none."""

    @property
    def value_text(self) -> str:
        """The value with two decimals and its unit; a dash if it was not measured."""
        return "-" if self.value is None else f"{self.value:.2f} {self.unit}".rstrip()

    @property
    def shown_label(self) -> str:
        """The label that tables show. A measured value without deviations is a `reproduction`."""
        is_compared = self.published is not None and self.value is not None
        return self.label or ("reproduction" if is_compared else "")


def make_cells(
    job: Job, manifests: Mapping[str, Manifest], *, rows: Mapping[str, PublishedRow]
) -> tuple[Cell, ...]:
    """Return a cell for each metric of each stage, in the job's order.

    `manifests` has the finished stages, by name. `rows` are the published rows, by id.
    """
    cells: list[Cell] = []
    for name, stage in job.stages.items():
        measured = _stage_cells(stage, manifests.get(name))
        row = rows.get(stage.published) if stage.published else None
        if row is not None:
            deviations = find_deviations(job, stage, row, manifests=manifests, rows=rows)
            measured = [_compared(cell, row, deviations) for cell in measured]
        cells += measured
    return tuple(cells)


def _stage_cells(stage: Stage, manifest: Manifest | None) -> list[Cell]:
    names = tuple(metric.name for metric in manifest.metrics) if manifest else stage.metrics
    # Expected metrics that were not measured are shown, too, so that no expectation is lost.
    return [_cell(stage, name, manifest) for name in dict.fromkeys([*names, *stage.expect])]


def _cell(stage: Stage, name: str, manifest: Manifest | None) -> Cell:
    expectation = stage.expect.get(name)
    metric = (
        next((metric for metric in manifest.metrics if metric.name == name), None)
        if manifest
        else None
    )
    if metric is None or manifest is None:
        verdict: CellVerdict | None = CellVerdict.NOT_RUN
    elif expectation is None:
        verdict = None
    else:
        verdict = CellVerdict.PASS if expectation.is_met_by(metric.value) else CellVerdict.FAIL
    return Cell(
        stage=stage.name,
        metric=name,
        value=metric.value if metric else None,
        unit=metric.unit if metric else unit_of(name),
        split=metric.split if metric else None,
        num_samples=metric.num_samples if metric else None,
        expected=str(expectation) if expectation else None,
        verdict=verdict,
        key=manifest.key if manifest and metric else None,
    )


def _compared(cell: Cell, row: PublishedRow, deviations: tuple[PublishedDeviation, ...]) -> Cell:
    """Return the cell with the row's number, if the row has its metric."""
    published = row.metrics.get(cell.metric)
    if published is None:
        return cell
    comparison = {
        "published": published,
        "published_source": row.source,
        "delta": None if cell.value is None else cell.value - published,
        "label": label_of(deviations),
        "differs": "; ".join(deviation.text for deviation in deviations) or None,
    }
    return cell.model_copy(update=comparison)
