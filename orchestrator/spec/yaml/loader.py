"""A job file -> its tree of marked values: parsed, merged over the file that it extends, with the
values of `--set` put in. Collects the faults of the text itself.

Knows nothing about jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from orchestrator.credentials import Credential, find_credentials
from orchestrator.spec.faults import SET, Faults, Mark, one_line, suggestion
from orchestrator.spec.locations import refuse_unexpanded
from orchestrator.spec.yaml.composer import Composer, LimitError
from orchestrator.spec.yaml.node import Node, put

MAX_BYTES = 2**19
"""The largest job file that is read. A job with a thousand stages needs two thirds of it. YAML is
parsed at 200 kB/s."""

EXTENDS = "extends"
_SET_MARK = Mark(SET)
_DIRECTIVE = re.compile(r"^%", re.MULTILINE)
_HINTS = {
    "block scalar": "put quotes around a string that begins with > or |",
    "'\\t' that cannot start": "indent with spaces",
    "cannot start any token": "put quotes around a string that begins with a special character",
}


@dataclass(frozen=True)
class Override:
    """A value for the dotted `path`. The steps of the path are the keys that lead there."""

    path: str
    value: Node

    @property
    def steps(self) -> list[str]:
        return self.path.split(".")


def load_extended_tree(path: Path, faults: Faults, contents: list[bytes]) -> Node | None:
    """Return the tree of a file merged over the tree of the file that it extends, recursively.

    Returns None if one of the files cannot be read. Mappings are merged; any other value, including
    a list, replaces the one of the extended file. Appends the content of each file to `contents`.
    """
    return _load_over(path, (), faults, contents)


def parse_overrides(texts: Sequence[str], faults: Faults) -> list[Override]:
    """Parse `PATH=VALUE` strings. Adds a fault for each malformed one and leaves it out."""
    parsed = (_parse_override(text, faults) for text in texts)
    return [override for override in parsed if override is not None]


def _parse_override(text: str, faults: Faults) -> Override | None:
    path, equals, value = text.partition("=")
    if credentials := find_credentials(text):
        steps = path if not find_credentials(path) else ""
        faults.add(_SET_MARK, steps, credential_fault(credentials[0]))
        return None
    if not equals or not all(path.split(".")):
        faults.add(
            _SET_MARK, repr(text), "must be written PATH=VALUE, such as stages.pretrain.epochs=3"
        )
        return None
    inside = Faults()
    node = parse_tree(value, SET, inside)
    for fault in inside:
        steps = ".".join(filter(None, [path, fault.path]))
        faults.add(_SET_MARK, steps, fault.message)
    return Override(path, node) if node is not None and not inside else None


def apply_overrides(tree: Node, overrides: Sequence[Override], faults: Faults) -> Node:
    """Return `tree` with the overrides applied in order. Adds a fault for each that does not
    fit."""
    for override in overrides:
        try:
            _check_stage(tree, override.steps)
            tree = put(tree, override.steps, override.value, may_make=True)
        except ValueError as err:
            faults.add(_SET_MARK, override.path, str(err))
    return tree


def _check_stage(tree: Node, steps: Sequence[str]) -> None:
    """Raise ValueError for an unknown stage: a misspelt name must not create a new, empty stage."""
    stages = tree.members.get("stages")
    if (
        len(steps) > 1
        and steps[0] == "stages"
        and stages
        and stages.members
        and steps[1] not in stages.members
    ):
        raise ValueError(f"unknown stage {steps[1]!r}{suggestion(steps[1], stages.members)}")


def credential_fault(found: Credential) -> str:
    """Return the message of a fault about a credential. It does not contain the credential."""
    return (
        f"contains what looks like {found.what}; a job is kept in the store and shown in reports, "
        "so remove it, revoke it, and provide a new one in an environment variable or in a file "
        "such as ~/.aws/credentials"
    )


def load_tree(path: Path, faults: Faults, contents: list[bytes]) -> Node | None:
    """Return the tree of a file, or None if it cannot be read or parsed. Appends the file's content
    to `contents`."""
    source = str(path)
    content = _read(path, faults)
    text = _decode(content, Mark(source), faults) if content is not None else None
    if content is None or text is None:
        return None
    contents.append(content)
    if credentials := find_credentials(text):
        # Other faults are not looked for, because their messages show the values of fields.
        for found in credentials:
            mark = Mark(source, found.line + 1, found.column + 1)
            faults.add(mark, "", credential_fault(found))
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


def _read(path: Path, faults: Faults) -> bytes | None:
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
        return content
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


def _load_over(
    path: Path, over: tuple[Path, ...], faults: Faults, contents: list[bytes]
) -> Node | None:
    """Load `path`. `over` are the files that extend it, outermost first."""
    tree = load_tree(path, faults, contents)
    if tree is None or EXTENDS not in tree.members:
        return tree
    field, rest = tree.split((EXTENDS,))
    base_path = _base_path(path, field.members[EXTENDS], (*over, path), faults)
    base = _load_over(base_path, (*over, path), faults, contents) if base_path else None
    return laid_over(base, rest) if base else None


def _base_path(path: Path, named: Node, trail: tuple[Path, ...], faults: Faults) -> Path | None:
    """Resolve the file name in `named` relative to `path`. Adds a fault and returns None if there
    is no such file."""
    if not isinstance(named.value, str) or not named.value:
        faults.add(
            named.at, EXTENDS, "must be the path of a job file, relative to the folder of this one"
        )
        return None
    try:
        refuse_unexpanded(named.value)
    except ValueError as err:
        faults.add(named.at, EXTENDS, str(err))
        return None
    base_path = path.parent / named.value
    try:
        is_file = base_path.is_file()
        before = [other for other in trail if is_file and other.samefile(base_path)]
    except OSError as err:
        faults.add(named.at, EXTENDS, f"{one_line(str(base_path))} cannot be read: {err.strerror}")
        return None
    if not is_file:
        faults.add(named.at, EXTENDS, f"{one_line(str(base_path))} does not exist or is not a file")
        return None
    if before:
        chain = " -> ".join(map(str, [*trail[trail.index(before[0]) :], base_path]))
        faults.add(named.at, EXTENDS, f"a cycle of files: {chain}")
        return None
    return base_path


def laid_over(base: Node, over: Node) -> Node:
    """Merge `over` into `base`. Fields of `base` keep their order; new fields follow."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    merged = {
        key: laid_over(base.value[key], node) if key in base.value else node
        for key, node in over.value.items()
    }
    return replace(over, value={**base.value, **merged})
