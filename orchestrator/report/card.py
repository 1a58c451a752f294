"""The model card of a published checkpoint: where it comes from and how to load it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from orchestrator.numbers import change_text, number_text
from orchestrator.report.cells import Cell
from orchestrator.report.lineage import Lineage


def make_card(
    *,
    title: str,
    how_to_load: str,
    kind: str,
    store: str,
    lineage: Lineage,
    cells: Sequence[Cell],
    files: Mapping[str, str],
) -> str:
    """Return a README.md. `how_to_load` is Python code, `files` are the sha256 by name."""
    return "\n".join(
        [
            *(f"# {title}", "", f"A checkpoint of the stage `{lineage.stage}` ({kind})."),
            *("", "## Numbers", "", *_numbers(cells)),
            *("", "## How to load", "", "```python", f"{how_to_load.strip()}\n```"),
            *("", "## Where it comes from", ""),
            f"- Key: `{lineage.key}`",
            f"- store: `{store}`",
            f"- code: {lineage.code}",
            f"- data fingerprint: `{lineage.data}`",
            *(f"- input `{one.field}`: {one.text} `{one.sha256}`" for one in lineage.inputs),
            *(f"- {name}: {text}" for name, text in lineage.facts),
            f"- again: `{lineage.command}`",
            *("", "## Files", ""),
            *(f"- `{name}`: sha256 `{sha256}`" for name, sha256 in files.items()),
            *("", "## Params", "", *_params(lineage), ""),
        ]
    )


def _numbers(cells: Iterable[Cell]) -> Iterator[str]:
    yield from ("| metric | value | published | delta | samples | |", "|---|---|---|---|---|---|")
    for cell in cells:
        samples = "" if cell.num_samples is None else f"{cell.num_samples} {cell.split}"
        published, delta = number_text(cell.published), change_text(cell.delta)
        row = (cell.metric, cell.value_text, published, delta, samples, cell.shown_label)
        yield f"| {' | '.join(row)} |"


def _params(lineage: Lineage) -> Iterator[str]:
    yield from ("| param | value | reference recipe |", "|---|---|---|")
    for param in lineage.params:
        differs = "" if param.reference is None else f"`{param.reference}`"
        yield f"| {param.name} | `{param.value}` | {differs} |"
