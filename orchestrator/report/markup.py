"""Escape text so that GitHub's Markdown renders it as written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_MARKUP = re.compile(r"([\\`*\[\]<|~&]|(?<!\w)_|_(?!\w))")
"""Characters that GitHub may treat as markup within a line. An underscore inside a word, as in
box_map, is not markup."""


def table_lines(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str]
) -> list[str]:
    """Return the lines of a table. Its cells must be escaped. Columns in `right` are
    right-aligned."""
    marks = ["--:" if name in right else ":--" for name in columns]
    return [_line(columns), _line(marks), *(_line(row) for row in rows)]


def escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Return `text` as code, between more backticks than it has in a row."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"{fence}{text}{fence}"


def _line(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"
