"""Node: a plain value with the marks of its position and of its key.

Plain scalars follow the core schema of YAML 1.2: `1e-3` is a number, `on` and `no` are strings."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from pydantic import JsonValue

from orchestrator.spec.faults import Mark, shown, suggestion

Steps: TypeAlias = Sequence[str | int]


@dataclass(frozen=True, slots=True)
class Node:
    """A value of a YAML tree. `at` is its position, `key_at` the position of its key.

    For an item of a list, and for the root, `key_at` is the position of the value itself.
    """

    value: Scalar | tuple[Node, ...] | Mapping[str, Node]
    at: Mark
    key_at: Mark

    @property
    def members(self) -> Mapping[str, Node]:
        """The values of a mapping by key; empty for any other value."""
        return self.value if isinstance(self.value, Mapping) else {}

    def members_of(self, key: str) -> Mapping[str, Node]:
        """The members of the mapping under `key`; empty if there is no such mapping."""
        member = self.members.get(key)
        return member.members if member else {}

    def split(self, keys: Collection[str]) -> tuple[Node, Node]:
        """Split a mapping into the members with these keys and the others."""
        chosen = {key: node for key, node in self.members.items() if key in keys}
        others = {key: node for key, node in self.members.items() if key not in keys}
        return replace(self, value=chosen), replace(self, value=others)

    def nearest(self, steps: Steps) -> Node:
        """The node at the end of `steps`, or the last one that exists on the way there."""
        node = self
        for step in steps:
            if isinstance(node.value, tuple) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
            elif isinstance(node.value, Mapping) and str(step) in node.value:
                node = node.value[str(step)]
            else:
                break
        return node


def plain(node: Node) -> JsonValue:
    """Return the value without its marks."""
    if isinstance(node.value, Mapping):
        return {key: plain(member) for key, member in node.value.items()}
    if isinstance(node.value, tuple):
        return [plain(item) for item in node.value]
    return node.value


def marked(value: JsonValue, at: Mark, key_at: Mark | None = None) -> Node:
    """Return a tree of `value` whose nodes all have the mark `at`."""
    if isinstance(value, dict):
        return Node({key: marked(member, at) for key, member in value.items()}, at, key_at or at)
    if isinstance(value, list):
        return Node(tuple(marked(item, at) for item in value), at, key_at or at)
    return Node(value, at, key_at or at)


def put(tree: Node, steps: Sequence[str], value: Node, *, may_make: bool) -> Node:
    """Return `tree` with `value` at the end of `steps`. `may_make`: create missing mappings.

    Raises ValueError if a step leads through a value that is not a mapping, or through a missing
    field.
    """
    if not steps:
        return value
    if not isinstance(tree.value, Mapping):
        raise ValueError(
            f"cannot be set: its parent is {_described(tree)}; set the parent as a whole"
        )
    first, *rest = steps
    if rest and first not in tree.value and not may_make:
        raise ValueError(f"unknown field {shown(first)}{suggestion(first, tree.value)}")
    member = tree.value.get(first, Node({}, value.key_at, value.key_at))
    return replace(tree, value={**tree.value, first: put(member, rest, value, may_make=may_make)})


def _described(node: Node) -> str:
    return "a list" if isinstance(node.value, tuple) else f"{shown(plain(node))}, not a mapping"


Scalar = str | int | float | bool | None


_CONSTANTS: dict[str, Scalar] = {
    **dict.fromkeys(["", "~", "null", "Null", "NULL"], None),
    **dict.fromkeys(["true", "True", "TRUE"], True),
    **dict.fromkeys(["false", "False", "FALSE"], False),
}


_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_DIGITS = 66
"""Longer than any 64-bit number in base 8, 10 or 16. Python's int() needs quadratic time for longer
texts."""


def parse_plain(text: str) -> Scalar:
    """Return the value of an unquoted scalar. Raises ValueError for a number that is not finite or
    too large."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return _parse_integer(text)
    if _FLOAT.fullmatch(text):
        return _finite(float(text))
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("must be a finite number")
    return text


def _parse_integer(text: str) -> int:
    if len(text) <= _MAX_DIGITS:
        value = int(text, base=0) if text[:2] in ("0o", "0x") else int(text)
        if -(2**63) <= value < 2**63:
            return value
    raise ValueError("must fit in 64 bits")


def _finite(value: float) -> float:
    if math.isinf(value):
        raise ValueError("must be a finite number of double precision")
    return value
