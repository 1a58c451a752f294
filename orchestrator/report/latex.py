"""Cells -> LaTeX: a booktabs table for each kind of stage, with a row for each stage."""

from __future__ import annotations

import re
from collections.abc import Mapping

from orchestrator.report.cells import Cell

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"\\{character}" for character in "&%$#_"},
}
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def make_latex(job_name: str, cells: tuple[Cell, ...], kinds: Mapping[str, str]) -> str:
    """Return one table for each kind, in the order of the job. `kinds` are the stages' kinds.

    The document needs `\\usepackage{booktabs}`. A published number is in the row below ours.
    """
    tables = [
        _table(job_name, kind, [cell for cell in cells if kinds[cell.stage] == kind])
        for kind in dict.fromkeys(kinds[cell.stage] for cell in cells)
    ]
    return "\n".join(tables)


def _table(job_name: str, kind: str, cells: list[Cell]) -> str:
    columns = {cell.metric: _header(cell) for cell in cells}
    rows: list[str] = []
    for stage in dict.fromkeys(cell.stage for cell in cells):
        of_stage = {cell.metric: cell for cell in cells if cell.stage == stage}
        rows.append(_row(escaped(stage), [_value(of_stage.get(metric)) for metric in columns]))
        compared = next((cell for cell in of_stage.values() if cell.published is not None), None)
        if compared is not None:
            numbers = [_published(of_stage.get(metric)) for metric in columns]
            label = f"\\quad published ({escaped(compared.shown_label or 'not run')})"
            rows.append(_row(label, numbers))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(job_name)}: {escaped(kind)}}}",
            rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
            r"\toprule",
            _row("stage", list(columns.values())),
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """Return `text` so that LaTeX prints it as it is, without characters that cannot be printed."""
    return "".join(_SPECIAL.get(character, character) for character in _UNPRINTABLE.sub(" ", text))


def _header(cell: Cell) -> str:
    return escaped(f"{cell.metric} ({cell.unit})" if cell.unit else cell.metric)


def _value(cell: Cell | None) -> str:
    return "--" if cell is None or cell.value is None else f"{cell.value:.2f}"


def _published(cell: Cell | None) -> str:
    return "" if cell is None or cell.published is None else f"{cell.published:.2f}"


def _row(name: str, values: list[str]) -> str:
    return " & ".join([name, *values]) + r" \\"
