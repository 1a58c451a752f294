"""Cells -> Markdown that GitHub renders: a table, notes, searches, the recipe audit, where the
numbers come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from orchestrator.report.audit import Audits, audit_lines
from orchestrator.report.cells import Cell
from orchestrator.report.markup import code, escaped, table_lines
from orchestrator.report.notes import Origin, changes_of, notes_of
from orchestrator.report.numbers import change_text, number_text, value_text
from orchestrator.report.search import Search, search_parts

_COLUMNS = ("stage", "metric", "value", "expected", "published", "delta", "label", "verdict", "key")
_RIGHT = ("value", "expected", "published", "delta")


def make_markdown(
    job_name: str,
    cells: tuple[Cell, ...],
    audits: Audits,
    origin: Origin,
    searches: tuple[Search, ...] = (),
    plots: Mapping[str, Mapping[str, str]] = {},
    details: Mapping[str, Mapping[str, str]] = {},
) -> str:
    """The report as a document of its own, two decimals to a number, ended by a newline.

    `plots` are, by stage, the links to a search's charts by their titles; `details` those to what
    an evaluation publishes in addition to its metrics, by their paths in its artifact.
    """
    audited = [f"- {escaped(line)}" for line in audit_lines(audits)]
    parts = [
        [f"# Report of {escaped(job_name)}"],
        _table(cells),
        [f"- {escaped(note)}" for note in (*notes_of(cells), *changes_of(origin))],
        *(
            part
            for search in searches
            for part in search_parts(search, plots.get(search.stage, {}))
        ),
        *(part for stage, links in details.items() for part in details_parts(stage, links)),
        ["## Recipe audit"] if audited else [],
        audited,
        [f"Reproduce: {code(origin.command)}"],
        [_location_text(job_name, origin)],
    ]
    return "\n".join("\n".join([*lines, ""]) for lines in parts if lines)


def _location_text(job_name: str, origin: Origin) -> str:
    run = f"run {code(origin.run_id)}" if origin.run_id else "not run yet"
    where = f"Job {code(job_name)}, {run}, store {code(origin.store)}."
    return (
        f"{where} A key begins the name of the manifest, in `manifests/`, that a number comes from."
    )


def _table(cells: tuple[Cell, ...]) -> list[str]:
    has_published = any(cell.published is not None for cell in cells)
    columns = [
        name for name in _COLUMNS if has_published or name not in ("published", "delta", "label")
    ]
    rows = (_texts(cell) for cell in cells)
    return table_lines(columns, ([row[name] for name in columns] for row in rows), right=_RIGHT)


def _texts(cell: Cell) -> dict[str, str]:
    return {
        "stage": escaped(cell.stage),
        "metric": escaped(cell.metric),
        "value": value_text(cell),
        "expected": escaped(cell.expected or ""),
        "published": number_text(cell.published),
        "delta": change_text(cell.delta),
        "label": escaped(cell.standing),
        "verdict": escaped(str(cell.verdict or "")),
        "key": code(cell.key[:8]) if cell.key else "",
    }


SHOWN = (".png", ".jpg", ".svg")
HIDDEN = "predictions"
"""Files and folders whose names begin so are linked as one: they may be thousands."""


def details_parts(stage: str, links: Mapping[str, str]) -> list[list[str]]:
    """A heading, pictures, and links to the other files; `links` are by path in the artifact."""
    shown = {path: link for path, link in sorted(links.items()) if not _is_hidden(path)}
    pictures = [
        f"![{escaped(path)}](<{link}>)" for path, link in shown.items() if path.endswith(SHOWN)
    ]
    others = [
        f"[{escaped(path)}](<{link}>)" for path, link in shown.items() if not path.endswith(SHOWN)
    ]
    num_hidden = len(links) - len(shown)
    files = (
        [f"predictions in {num_hidden} {'file' if num_hidden == 1 else 'files'} beside these"]
        if num_hidden
        else []
    )
    return [[f"## Details of {escaped(stage)}"], pictures, [", ".join([*others, *files])]]


def _is_hidden(path: str) -> bool:
    return any(part.startswith(HIDDEN) for part in PurePosixPath(path).parts)
