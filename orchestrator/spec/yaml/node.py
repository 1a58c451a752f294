"""Node: a plain value with the marks of its position and its key's, and how one is put into
another; and plain scalars, by the core schema of YAML 1.2: `1e-3` is a number, `on` and `no` are
texts."""

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
    """`key_at` is the position of the value's key; for an item of a list, and for a root, the
    value itself."""

    value: Scalar | tuple[Node, ...] | Mapping[str, Node]
    at: Mark
    key_at: Mark

    @property
    def members(self) -> Mapping[str, Node]:
        """The values of a mapping by their keys; none for anything else."""
        return self.value if isinstance(self.value, Mapping) else {}

    def members_of(self, key: str) -> Mapping[str, Node]:
        """The members of the mapping under `key`, none if there is no such mapping."""
        member = self.members.get(key)
        return member.members if member else {}

    def split(self, keys: Collection[str]) -> tuple[Node, Node]:
        """A mapping's members with these keys, and those without."""
        chosen = {key: node for key, node in self.members.items() if key in keys}
        others = {key: node for key, node in self.members.items() if key not in keys}
        return replace(self, value=chosen), replace(self, value=others)

    def nearest(self, steps: Steps) -> Node:
        """The node at the end of `steps`, or the last one on the way there."""
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
    """The value without its marks."""
    if isinstance(node.value, Mapping):
        return {key: plain(member) for key, member in node.value.items()}
    if isinstance(node.value, tuple):
        return [plain(item) for item in node.value]
    return node.value


def marked(value: JsonValue, at: Mark, key_at: Mark | None = None) -> Node:
    """A tree of `value` at one mark as a whole."""
    if isinstance(value, dict):
        return Node({key: marked(member, at) for key, member in value.items()}, at, key_at or at)
    if isinstance(value, list):
        return Node(tuple(marked(item, at) for item in value), at, key_at or at)
    return Node(value, at, key_at or at)


def put(tree: Node, steps: Sequence[str], value: Node, *, may_make: bool) -> Node:
    """`tree` with `value` at the end of `steps`. `may_make`: mappings that are missing on the way
    are made.

    Raises ValueError with the reason where the way leads through something else than a mapping, or
    ends.
    """
    if not steps:
        return value
    if not isinstance(tree.value, Mapping):
        raise ValueError(
            f"cannot be reached: what holds it is {_described(tree)}; give that as a whole"
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
"""More than any 64-bit number has in base 8 to 16; beyond it Python's int() takes quadratic
time."""


def parse_plain(text: str) -> Scalar:
    """The value of an unquoted scalar; ValueError says what is wrong with a number that is none."""
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
