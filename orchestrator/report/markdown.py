"""Cells -> Markdown that GitHub renders: a table, notes, the recipe audit, and where the numbers come from."""

from __future__ import annotations

import re
from collections.abc import Iterable

from orchestrator.report.audit import Audits, audit_lines
from orchestrator.report.cells import Cell
from orchestrator.report.notes import Origin, changes_of, notes_of
from orchestrator.report.numbers import change_text, number_text, value_text

_MARKUP = re.compile(r"([\\`*\[\]<|~&]|(?<!\w)_|_(?!\w))")
"""What GitHub may read as markup within a line; an underscore inside a word, as in box_map, is none."""

_COLUMNS = ("stage", "metric", "value", "expected", "published", "delta", "label", "verdict", "key")
_RIGHT = ("value", "expected", "published", "delta")


def make_markdown(job_name: str, cells: tuple[Cell, ...], audits: Audits, origin: Origin) -> str:
    """The report as a document of its own, two decimals to a number, ended by a newline."""
    audited = [f"- {_escaped(line)}" for line in audit_lines(audits)]
    parts = [
        [f"# Report of {_escaped(job_name)}"],
        _table(cells),
        [f"- {_escaped(note)}" for note in (*notes_of(cells), *changes_of(origin))],
        ["## Recipe audit"] if audited else [],
        audited,
        [f"Reproduce: {_code(origin.command)}"],
        [_place(job_name, origin)],
    ]
    return "\n".join("\n".join([*lines, ""]) for lines in parts if lines)


def _place(job_name: str, origin: Origin) -> str:
    run = f"run {_code(origin.run_id)}" if origin.run_id else "not run yet"
    where = f"Job {_code(job_name)}, {run}, store {_code(origin.store)}."
    return f"{where} A key begins the name of the manifest, in `manifests/`, that a number comes from."


def _table(cells: tuple[Cell, ...]) -> list[str]:
    has_published = any(cell.published is not None for cell in cells)
    columns = [name for name in _COLUMNS if has_published or name not in ("published", "delta", "label")]
    marks = ["--:" if name in _RIGHT else ":--" for name in columns]
    rows = [_texts(cell) for cell in cells]
    return [_line(columns), _line(marks), *(_line([row[name] for name in columns]) for row in rows)]


def _texts(cell: Cell) -> dict[str, str]:
    return {
        "stage": _escaped(cell.stage),
        "metric": _escaped(cell.metric),
        "value": value_text(cell),
        "expected": _escaped(cell.expected or ""),
        "published": number_text(cell.published),
        "delta": change_text(cell.delta),
        "label": _escaped(cell.standing),
        "verdict": _escaped(str(cell.verdict or "")),
        "key": _code(cell.key[:8]) if cell.key else "",
    }


def _line(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """`text` as code, between more backticks than it holds in a row."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"{fence}{text}{fence}"
