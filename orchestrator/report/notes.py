"""Notes below the table: the row that a stage is compared with, why it is not a reproduction, and
where the report comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.report.cells import Cell


@dataclass(frozen=True)
class Origin:
    """Where the numbers of a report come from, and how to get them again."""

    store: str
    run_id: str | None
    """The id of the job's last run, or None if it never ran."""
    command: str
    """The command that runs the current job file."""
    changes: Mapping[str, str]
    """How the job file differs from the last run, by stage."""


def notes_of(cells: tuple[Cell, ...]) -> tuple[str, ...]:
    """Return one note for each stage that is compared with published numbers, in the report's
    order."""
    compared = [cell for cell in cells if cell.published is not None]
    return tuple(dict.fromkeys(_note(cell) for cell in compared))


def changes_of(origin: Origin) -> tuple[str, ...]:
    """Return one remark for each stage whose recipe in the job file has changed since the run."""
    return tuple(
        f"the report shows stages.{stage} as last run; the job has changed since: {change}"
        for stage, change in origin.changes.items()
    )


def _note(cell: Cell) -> str:
    if cell.label is None:
        return f"{cell.stage}: follows the recipe of {cell.published_source}"
    source = f"{cell.published_source} ({cell.label})"
    return f"{cell.stage}: not a reproduction of {source}: {cell.differs}"
