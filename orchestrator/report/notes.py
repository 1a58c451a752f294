"""What a table cannot hold: which row a stage is compared with, why it is not a reproduction, and
where a report comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.report.cells import Cell


@dataclass(frozen=True)
class Origin:
    """Where the numbers of a report come from, and how to get them again."""

    store: str
    run_id: str | None
    """Id of the job's last run; None where it never ran."""
    command: str
    """What runs the job as its file is now."""
    changes: Mapping[str, str]
    """By stage, how the job file differs from what was run."""


def notes_of(cells: tuple[Cell, ...]) -> tuple[str, ...]:
    """One note for each stage that is compared with published numbers, in the order of the
    report."""
    compared = [cell for cell in cells if cell.published is not None]
    return tuple(dict.fromkeys(_note(cell) for cell in compared))


def changes_of(origin: Origin) -> tuple[str, ...]:
    """One remark for each stage whose numbers belong to another recipe than the job file's."""
    return tuple(
        f"the report shows stages.{stage} as last run; the job has changed since: {change}"
        for stage, change in origin.changes.items()
    )


def _note(cell: Cell) -> str:
    if cell.label is None:
        return f"{cell.stage}: by the recipe of {cell.published_source}"
    return (
        f"{cell.stage}: no reproduction of {cell.published_source} ({cell.label}): {cell.differs}"
    )
