"""How faults are collected and worded: marks, did-you-mean, values as a person wrote them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from orchestrator.errors import Fault, SpecError

SET = "--set"
"""The source of what is given on the command line: its marks have no lines."""
MAX_SHOWN = 60
"""Characters of a value that a fault shows: enough to recognise it, and the line stays a line."""


class Mark(NamedTuple):
    """Position of a value; `line` and `column` count from 1 and are None outside files
    (`--set`)."""

    source: str
    line: int | None = None
    column: int | None = None


class Faults:
    """A growing list of faults, so that a user meets all of them at once."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, mark: Mark, path: str, message: str) -> None:
        self._faults.append(Fault(mark.source, mark.line, mark.column, one_line(path), message))

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults)

    def __len__(self) -> int:
        return len(self._faults)

    def extend_elsewhere(self, others: Faults) -> None:
        """Add the faults of `others` at positions without a fault so far: what a broken value
        entails needs no report."""
        taken = {
            (fault.source, fault.line, fault.column) for fault in self if fault.line is not None
        }
        self._faults += [
            fault for fault in others if (fault.source, fault.line, fault.column) not in taken
        ]

    def raise_if_any(self) -> None:
        """Raises SpecError in the order of the file, what has no line last."""
        if self._faults:
            faults = dict.fromkeys(self._faults)
            raise SpecError(
                sorted(
                    faults,
                    key=lambda fault: (fault.line is None, fault.line or 0, fault.column or 0),
                )
            )


def dotted(path: str, step: str | int) -> str:
    """`path` and one step down; a key that would break the line is quoted, a long one cut."""
    text = cut(one_line(str(step)))
    return f"{path}.{text}" if path else text


def one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)


def cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def shown(value: Any) -> str:
    """The value as YAML has it, on one line, cut to a readable length."""
    if isinstance(value, str):
        return cut(repr(value))
    return cut(json.dumps(value, ensure_ascii=False))


def suggestion(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` when one of `known` is near, else the list of them, to be put behind
    `unknown ...`."""
    names = list(known)
    near = difflib.get_close_matches(cut(word), names, n=1)
    if near:
        return f", did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if names else "; there are none"
