"""Texts -> Markdown that GitHub renders as they are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_MARKUP = re.compile(r"([\\`*\[\]<|~&]|(?<!\w)_|_(?!\w))")
"""What GitHub may read as markup within a line; an underscore inside a word, as in box_map, is
none."""


def table_lines(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str]
) -> list[str]:
    """A table of cells that are escaped already; the columns named by `right` are flush right."""
    marks = ["--:" if name in right else ":--" for name in columns]
    return [_line(columns), _line(marks), *(_line(row) for row in rows)]


def escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """`text` as code, between more backticks than it holds in a row."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"{fence}{text}{fence}"


def _line(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"
