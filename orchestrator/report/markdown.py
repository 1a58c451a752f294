"""The report as Markdown for GitHub: a table, notes, searches, the recipe audit and the origin of
the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from orchestrator.numbers import change_text, number_text
from orchestrator.report.audit import Audits, audit_lines
from orchestrator.report.cells import Cell
from orchestrator.report.lineage import Lineage
from orchestrator.report.markup import code, escaped, table_lines
from orchestrator.report.notes import Origin, changes_of, notes_of
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
    lineages: Mapping[str, Lineage] = {},
) -> str:
    """Return the report as a complete document that ends with a newline. Numbers have two decimals.

    `plots` has the links to a search's plots by title, for each stage. `details` has the links to
    an evaluation's details by path in its artifact, for each stage. `lineages` are by stage.
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
        ["## Where the numbers come from"] if lineages else [],
        [line for stage, lineage in lineages.items() for line in _lineage_lines(stage, lineage)],
        [f"Reproduce: {code(origin.command)}"],
        [_location_text(job_name, origin)],
    ]
    return "\n".join("\n".join([*lines, ""]) for lines in parts if lines)


def _lineage_lines(stage: str, lineage: Lineage) -> list[str]:
    """The code, the hardware and the cost of a stage, as an item of a list."""
    facts = dict(lineage.facts)
    shown = [f"{name}: {facts[name]}" for name in ("hardware", "cost") if name in facts]
    return [f"- {escaped('; '.join([f'{stage}: {lineage.code}', *shown]))}"]


def _location_text(job_name: str, origin: Origin) -> str:
    run = f"run {code(origin.run_id)}" if origin.run_id else "not run yet"
    where = f"Job {code(job_name)}, {run}, store {code(origin.store)}."
    return f"{where} The key of a number is the start of its manifest's name in `manifests/`."


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
        "value": cell.value_text,
        "expected": escaped(cell.expected or ""),
        "published": number_text(cell.published),
        "delta": change_text(cell.delta),
        "label": escaped(cell.shown_label),
        "verdict": escaped(str(cell.verdict or "")),
        "key": code(cell.key[:8]) if cell.key else "",
    }


SHOWN = (".png", ".jpg", ".svg")
HIDDEN = "predictions"
"""Files and folders whose names begin with this are only counted: there may be thousands."""


def details_parts(stage: str, links: Mapping[str, str]) -> list[list[str]]:
    """Return a heading, pictures and links to the other files. `links` are by path in the
    artifact."""
    shown = {path: link for path, link in sorted(links.items()) if not _is_hidden(path)}
    pictures = [
        f"![{escaped(path)}](<{link}>)" for path, link in shown.items() if path.endswith(SHOWN)
    ]
    others = [
        f"[{escaped(path)}](<{link}>)" for path, link in shown.items() if not path.endswith(SHOWN)
    ]
    num_hidden = len(links) - len(shown)
    files = (
        [f"predictions in {num_hidden} more {'file' if num_hidden == 1 else 'files'}"]
        if num_hidden
        else []
    )
    return [[f"## Details of {escaped(stage)}"], pictures, [", ".join([*others, *files])]]


def _is_hidden(path: str) -> bool:
    return any(part.startswith(HIDDEN) for part in PurePosixPath(path).parts)
