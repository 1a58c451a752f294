"""Parse YAML text into a tree of marked values and collect the faults of the text itself.

Knows nothing about jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from orchestrator.spec.faults import Faults, Mark
from orchestrator.spec.yaml.composer import Composer, LimitError
from orchestrator.spec.yaml.node import Node

MAX_BYTES = 2**19
"""The largest job file that is read. A job with a thousand stages needs two thirds of it. YAML is
parsed at 200 kB/s."""

_DIRECTIVE = re.compile(r"^%", re.MULTILINE)
_HINTS = {
    "block scalar": "put quotes around a string that begins with > or |",
    "'\\t' that cannot start": "indent with spaces",
    "cannot start any token": "put quotes around a string that begins with a special character",
}


def load_tree(path: Path, faults: Faults) -> Node | None:
    """Return the tree of a file, or None if it cannot be read or parsed."""
    source = str(path)
    text = _read(path, faults)
    if text is None:
        return None
    tree = parse_tree(text, source, faults)
    if tree is not None and tree.value is None:
        if not len(faults):
            faults.add(
                Mark(source), "", "is empty; a job file has at least `name`, `store` and `stages`"
            )
        return None
    return tree


def parse_tree(text: str, source: str, faults: Faults) -> Node | None:
    """Return the tree of a text, or None if its syntax or size is wrong. Marks of `--set` have no
    line."""
    composer = Composer(source, faults)
    directive = _DIRECTIVE.search(text)
    if directive is not None:
        faults.add(
            composer.mark(*_position(text, directive.start())),
            "",
            "YAML directives (%...) are not allowed",
        )
        return None
    try:
        return composer.compose(_events(text))
    except ReaderError as err:
        line, column = _position(text, err.position)
        faults.add(
            composer.mark(line, column),
            "",
            f"contains the control character {_character(err)}; is it a text file?",
        )
    except MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        faults.add(
            composer.mark(mark.line, mark.column) if mark else Mark(source), "", _wording(err)
        )
    except LimitError as err:
        faults.add(err.mark, err.path, err.message)
    except (YAMLError, ValueError, OverflowError) as err:
        # ruamel's scanner lets chr() fail on an escape such as "\UFFFFFFFF", without a position
        faults.add(composer.last, "", f"invalid YAML after this position: {err}")
    return None


def _events(text: str) -> Iterator[Any]:
    """Yield parser events. No constructor runs, so a tag cannot create an object."""
    return iter(YAML(typ="safe", pure=True).parse(text))


def _read(path: Path, faults: Faults) -> str | None:
    whole = Mark(str(path))
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        faults.add(whole, "", "no such file")
    except IsADirectoryError:
        faults.add(whole, "", "is a folder, not a job file")
    except OSError as err:
        faults.add(whole, "", f"cannot be read: {err.strerror}")
    else:
        return _decode(content, whole, faults)
    return None


def _decode(content: bytes, whole: Mark, faults: Faults) -> str | None:
    if len(content) > MAX_BYTES:
        faults.add(whole, "", f"is larger than {MAX_BYTES // 1024} KiB; is it a job file?")
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = content.count(b"\n", 0, err.start)
        column = err.start - (content.rfind(b"\n", 0, err.start) + 1)
        mark = Mark(whole.source, line + 1, column + 1)
        faults.add(
            mark, "", f"not UTF-8 text: the byte 0x{content[err.start]:02x}; is it a text file?"
        )
    return None


def _position(text: str, index: int) -> tuple[int, int]:
    """Line and column of a character, counted from 0."""
    return text.count("\n", 0, index), index - (text.rfind("\n", 0, index) + 1)


def _character(err: ReaderError) -> str:
    return ascii(err.character if isinstance(err.character, str) else chr(err.character))


def _wording(err: MarkedYAMLError) -> str:
    text = ", ".join(part for part in (err.context, err.problem) if part)
    return f"invalid YAML: {text}" + next(
        (f"; {hint}" for sign, hint in _HINTS.items() if sign in text), ""
    )
