"""Build a Node from parser events. Checks duplicate keys, tags, aliases and limits.

MAX_DEPTH bounds the recursion."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from orchestrator.spec.faults import SET, Faults, Mark, cut, dotted, shown
from orchestrator.spec.yaml.node import Node, Scalar, parse_plain

MAX_DEPTH = 40
"""The deepest job in `jobs/` has 6 levels; pydantic's JSON parser stops at 200."""
MAX_NODES = 50_000
"""Values in a file, with aliases expanded. A job with a thousand stages has 30,000."""

_UNUSABLE = re.compile(r"[\x00\ud800-\udfff]")
"""Characters that escapes can write but that neither a path nor a store can contain."""


class LimitError(Exception):
    """The text exceeds a limit or has an undefined alias, so composing cannot continue."""

    def __init__(self, mark: Mark, path: str, message: str) -> None:
        super().__init__(message)
        self.mark, self.path, self.message = mark, path, message


@dataclass(frozen=True)
class _Anchored:
    """The node that an alias refers to, or None while that node is still open."""

    node: Node | None
    num_nodes: int
    height: int


class Composer:
    """Builds the tree of one text. Faults that leave the rest readable are added to `faults`."""

    def __init__(self, source: str, faults: Faults) -> None:
        self._source = source
        self._faults = faults
        self._anchors: dict[str, _Anchored] = {}
        self._num_nodes = 0
        self._deepest = 0
        self.last = Mark(source)
        """Position of the latest value."""

    def mark(self, line: int, column: int) -> Mark:
        """Convert a position of ruamel, which counts from 0, to a mark."""
        return (
            Mark(self._source) if self._source == SET else Mark(self._source, line + 1, column + 1)
        )

    def compose(self, events: Iterator[Any]) -> Node | None:
        """Return the tree of the only document; its value is None if the text is empty."""
        tree = None
        for event in events:
            if isinstance(event, DocumentStartEvent):
                if tree is not None:
                    raise LimitError(
                        self._at(event),
                        "",
                        "a second YAML document starts here; a job file has only one",
                    )
                tree = self._node(next(events), events, "", 0)
                end = next(events)
                assert isinstance(end, DocumentEndEvent)
        return tree or Node(None, Mark(self._source), Mark(self._source))

    def _at(self, event: Any) -> Mark:
        return self.mark(event.start_mark.line, event.start_mark.column)

    def _node(self, event: Any, events: Iterator[Any], path: str, depth: int) -> Node:
        self.last = self._at(event)
        self._count(event, path, depth, 1)
        if isinstance(event, AliasEvent):
            return self._aliased(event, path, depth)
        if event.ctag is not None:
            self._faults.add(
                self._at(event),
                path,
                f"YAML tags ({cut(str(event.ctag))}) are not allowed; write the plain value",
            )
        if event.anchor is None:
            return self._untagged(event, events, path, depth)
        return self._anchored(event, events, path, depth)

    def _count(self, event: Any, path: str, depth: int, num_nodes: int) -> None:
        self._num_nodes += num_nodes
        self._deepest = max(self._deepest, depth)
        if depth > MAX_DEPTH:
            raise LimitError(self._at(event), path, f"is nested more than {MAX_DEPTH} levels deep")
        if self._num_nodes > MAX_NODES:
            raise LimitError(
                self._at(event),
                path,
                f"the file has more than {MAX_NODES} values, aliases expanded",
            )

    def _untagged(self, event: Any, events: Iterator[Any], path: str, depth: int) -> Node:
        at = self._at(event)
        if isinstance(event, MappingStartEvent):
            return Node(self._members(events, path, depth), at, at)
        if isinstance(event, SequenceStartEvent):
            return Node(self._items(events, path, depth), at, at)
        assert isinstance(event, ScalarEvent)
        return Node(self._scalar(event, path), at, at)

    def _anchored(self, event: Any, events: Iterator[Any], path: str, depth: int) -> Node:
        num_before, deepest_before = self._num_nodes - 1, self._deepest
        self._anchors[event.anchor] = _Anchored(None, 0, 0)
        self._deepest = depth
        node = self._untagged(event, events, path, depth)
        self._anchors[event.anchor] = _Anchored(
            node, self._num_nodes - num_before, self._deepest - depth
        )
        self._deepest = max(self._deepest, deepest_before)
        return node

    def _aliased(self, event: Any, path: str, depth: int) -> Node:
        anchored = self._anchors.get(event.anchor)
        if anchored is None:
            raise LimitError(
                self._at(event),
                path,
                f"the alias *{cut(event.anchor)} has no anchor before it",
            )
        if anchored.node is None:
            raise LimitError(
                self._at(event),
                path,
                f"the alias *{cut(event.anchor)} refers to a value that contains it",
            )
        self._count(event, path, depth + anchored.height, anchored.num_nodes - 1)
        return replace(anchored.node, key_at=self._at(event))

    def _items(self, events: Iterator[Any], path: str, depth: int) -> tuple[Node, ...]:
        items: list[Node] = []
        while not isinstance(event := next(events), SequenceEndEvent):
            items.append(self._node(event, events, dotted(path, len(items)), depth + 1))
        return tuple(items)

    def _members(self, events: Iterator[Any], path: str, depth: int) -> dict[str, Node]:
        members: dict[str, Node] = {}
        while not isinstance(event := next(events), MappingEndEvent):
            key_at = self._at(event)
            key = self._key(event, events, path, depth)
            inside = path if key is None else dotted(path, key)
            node = self._node(event := next(events), events, inside, depth + 1)
            if isinstance(event, ScalarEvent) and event.start_mark.index == event.end_mark.index:
                # The value is empty: ruamel's mark points to the next line.
                node = replace(node, at=key_at)
            if key is not None and key in members:
                self._duplicate(key_at, inside, members[key].key_at)
            elif key is not None:
                members[key] = replace(node, key_at=key_at)
        return members

    def _key(self, event: Any, events: Iterator[Any], path: str, depth: int) -> str | None:
        """Return a mapping's key; if it is not a string, add a fault and return None."""
        num_faults = len(self._faults)
        node = self._node(event, events, path, depth + 1)
        if len(self._faults) > num_faults:
            return None
        is_plain = isinstance(event, ScalarEvent) and not event.style
        if is_plain and node.value == "<<":
            self._faults.add(
                self._at(event),
                path,
                "merge keys (<<) are not part of YAML 1.2; write out the fields",
            )
        elif isinstance(node.value, str):
            return node.value
        elif isinstance(node.value, dict | tuple):
            self._faults.add(
                self._at(event), path, "a key must be a string, not a list or a mapping"
            )
        else:
            self._faults.add(
                self._at(event),
                path,
                f"a key must be a string, not {shown(node.value)}; put it in quotes",
            )
        return None

    def _duplicate(self, mark: Mark, path: str, first: Mark) -> None:
        where = "" if first.line is None else f", first used at line {first.line}"
        self._faults.add(mark, path, f"duplicate key{where}")

    def _scalar(self, event: ScalarEvent, path: str) -> Scalar:
        try:
            value = event.value if event.style else parse_plain(event.value)
            _refuse_unusable(value)
        except ValueError as err:
            self._faults.add(self._at(event), path, f"{err}, not {shown(event.value)[1:-1]}")
            return None
        return value


def _refuse_unusable(value: Scalar) -> None:
    if isinstance(value, str) and _UNUSABLE.search(value):
        raise ValueError("must be text without NUL characters and lone surrogates")
