"""The console blocks of a page: what a reader types, and what the page says that they see."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

FENCE = re.compile(
    r"(?:<!-- (?P<mark>not run|file): (?P<note>[^\n]*?) -->\n)?"
    r"```(?P<language>\w*)\n(?P<text>.*?)```\n",
    re.DOTALL,
)


@dataclass(frozen=True)
class Command:
    line: str
    output: str


@dataclass(frozen=True)
class NewFile:
    """A block that the reader saves as a file."""

    name: str
    content: str


@dataclass(frozen=True)
class Skipped:
    """A console block that no test runs, and why."""

    reason: str
    text: str


def steps(page: str) -> Iterator[Command | NewFile | Skipped]:
    """What a reader of the page does, from top to bottom."""
    for block in FENCE.finditer(page):
        if block["mark"] == "file":
            yield NewFile(block["note"], block["text"])
        elif block["language"] == "console" and block["mark"] == "not run":
            yield Skipped(block["note"], block["text"])
        elif block["language"] == "console":
            yield from _commands(block["text"])


def _commands(text: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        yield Command(line, output)


def matches(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed.

    Numbers, times and Keys may differ, and so may the widths of columns. `...` matches any text in
    a line, and as a line of its own any number of lines.
    """
    pattern = "".join(map(_pattern_of_line, _plain(shown).splitlines()))
    return re.fullmatch(pattern, _plain(printed)) is not None


def _pattern_of_line(line: str) -> str:
    if line == "...":
        return r"(?:.*\n)*"
    return ".*".join(map(re.escape, line.split("..."))) + r"\n"


def _plain(text: str) -> str:
    """The text with `0` for each number and `KEY` for each Key, without runs of blanks and
    dashes."""
    keyed = re.sub(r"\b(?=[a-f]*\d)[0-9a-f]{8}\b", "KEY", text)
    numbered = re.sub(r"\d+(?:\.\d+)?(?:e-?\d+)?", "0", keyed)
    lines = (re.sub(r"[ -]{2,}|-", " ", line).strip() for line in numbered.splitlines())
    return "".join(f"{line}\n" for line in lines)
