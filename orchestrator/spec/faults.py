"""Collect and word faults: marks, did-you-mean suggestions, values as the user wrote them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from orchestrator.errors import Fault, SpecError

SET = "--set"
"""The source of values from the command line. Their marks have no line."""
MAX_SHOWN = 60
"""Characters of a value that a fault shows: enough to recognise it on one line."""


class Mark(NamedTuple):
    """Position of a value. `line` and `column` count from 1; they are None outside files, as in
    `--set`."""

    source: str
    line: int | None = None
    column: int | None = None


class Faults:
    """A growing list of faults, so that all of them are reported at once."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, mark: Mark, path: str, message: str) -> None:
        self._faults.append(Fault(mark.source, mark.line, mark.column, one_line(path), message))

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults)

    def __len__(self) -> int:
        return len(self._faults)

    def extend_elsewhere(self, others: Faults) -> None:
        """Add the faults of `others` at positions that have no fault yet.

        A second fault at the same position would only be a consequence of the first.
        """
        taken = {
            (fault.source, fault.line, fault.column) for fault in self if fault.line is not None
        }
        self._faults += [
            fault for fault in others if (fault.source, fault.line, fault.column) not in taken
        ]

    def raise_if_any(self) -> None:
        """Raise SpecError if there are faults, in the order of the file; those without a line come
        last."""
        if self._faults:
            faults = dict.fromkeys(self._faults)
            raise SpecError(
                sorted(
                    faults,
                    key=lambda fault: (fault.line is None, fault.line or 0, fault.column or 0),
                )
            )


def dotted(path: str, step: str | int) -> str:
    """Append `step` to `path`. A key with unprintable characters is quoted, a long one is cut."""
    text = cut(one_line(str(step)))
    return f"{path}.{text}" if path else text


def one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)


def cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def shown(value: Any) -> str:
    """Format a value as in YAML, on one line, cut to MAX_SHOWN characters."""
    if isinstance(value, str):
        return cut(repr(value))
    return cut(json.dumps(value, ensure_ascii=False))


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the text that follows `unknown ...` in a message: `, did you mean 'x'?` if a name in
    `known` is similar, otherwise the list of names."""
    names = list(known)
    near = difflib.get_close_matches(cut(word), names, n=1)
    if near:
        return f", did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if names else "; there are none"
