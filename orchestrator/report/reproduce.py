"""Cells -> which published numbers are reproduced. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.report.cells import Cell
from orchestrator.report.published import OUR_METRICS, PublishedRow
from orchestrator.spec import Job

SCORE_TOLERANCE = 0.5
"""Points that a score may be below the published one: two seeds of the paper's recipe differ by as
much."""
SIZES = ("params_m", "flops_g")
"""Metrics that are counted, so they must be equal as published."""
NO_CONFIGURATION = "no configuration released; jobs/cat_t_v2_search.yaml searches for one"


class Reproduction(StrEnum):
    """What became of a published number."""

    PASS = "pass"
    FAIL = "fail"
    NOT_RUN = "not run"
    SHOWN = "shown"
    """It depends on the device, so it is never judged."""


@dataclass(frozen=True)
class ReproducedCell:
    """A published number, next to ours."""

    row: str
    metric: str
    published: float
    value: float | None
    verdict: Reproduction
    label: str | None
    """Why ours is not a reproduction; None if it is one, or if there is none."""
    note: str | None
    """Why it fails although the label is right, or why it cannot be run."""
    stage: str | None
    """The stage that measures it, or would."""
    key: str | None

    @property
    def is_settled(self) -> bool:
        """Whether the number does not keep the exit code from being 0."""
        return self.verdict in (Reproduction.PASS, Reproduction.SHOWN)


def make_reproductions(
    job: Job, cells: tuple[Cell, ...], rows: Mapping[str, PublishedRow]
) -> tuple[ReproducedCell, ...]:
    """Judge every metric of `rows`, in the order of the paper."""
    measured = {(cell.stage, cell.metric): cell for cell in cells}
    return tuple(
        _judge(row, metric, published, _candidates(job, row, metric, measured))
        for row in rows.values()
        for metric, published in row.metrics.items()
    )


def _candidates(
    job: Job, row: PublishedRow, metric: str, measured: Mapping[tuple[str, str], Cell]
) -> list[Cell]:
    """The cells that could show this number: of the row's stages, reproductions first."""
    names = OUR_METRICS.get(metric, (metric,))
    found = [
        measured[stage.name, name]
        for stage in job.stages.values()
        if stage.published == row.id
        for name in names
        if (stage.name, name) in measured
    ]
    return sorted(found, key=lambda cell: (cell.value is None, cell.label is not None))


def _judge(
    row: PublishedRow, metric: str, published: float, candidates: list[Cell]
) -> ReproducedCell:
    best = candidates[0] if candidates else None
    if best is None or best.value is None:
        verdict, note = Reproduction.NOT_RUN, None if best else NO_CONFIGURATION
    elif metric in OUR_METRICS:
        verdict, note = Reproduction.SHOWN, f"{best.metric}; depends on the device"
    elif best.label is not None:
        verdict, note = Reproduction.FAIL, best.differs
    else:
        verdict, note = _compare(row, metric, best.value)
    is_measured = best is not None and best.value is not None
    return ReproducedCell(
        row=row.id,
        metric=metric,
        published=published,
        value=best.value if best else None,
        verdict=verdict,
        label=best.label if best and is_measured else None,
        note=note,
        stage=best.stage if best else None,
        key=best.key if best else None,
    )


def _compare(row: PublishedRow, metric: str, value: float) -> tuple[Reproduction, str | None]:
    published = row.metrics[metric]
    if metric not in SIZES:
        is_close = value >= published - SCORE_TOLERANCE
        return (Reproduction.PASS if is_close else Reproduction.FAIL), None
    if round(value, _decimals(published)) == published:
        return Reproduction.PASS, None
    explained = row.counted.get(metric)
    if explained is not None and round(value, _decimals(explained)) == explained:
        return Reproduction.PASS, f"counted {explained:g}; docs/deviations.md explains it"
    return Reproduction.FAIL, f"counted {value:.2f}"


def _decimals(number: float) -> int:
    return 0 if number == int(number) else len(f"{number:g}".partition(".")[2])
