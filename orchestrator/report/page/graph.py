"""Stages and what they need -> boxes and lines of a drawing. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BOX_WIDTH, BOX_HEIGHT = 170, 34
GAP_X, GAP_Y = 48, 14
MAX_BOXES = 120


@dataclass(frozen=True)
class Box:
    name: str
    state: str
    x: int
    y: int
    num_stages: int
    """More than one for the cells of a matrix, which share a box."""


@dataclass(frozen=True)
class Graph:
    boxes: tuple[Box, ...]
    lines: tuple[tuple[int, int, int, int], ...]
    """From the right edge of a box to the left edge of one that needs it: x1, y1, x2, y2."""
    width: int
    height: int


def make_graph(needs: Mapping[str, Sequence[str]], states: Mapping[str, str]) -> Graph | None:
    """The plan from left to right; None if it has too many boxes to be read."""
    groups: dict[str, list[str]] = {}
    for stage in needs:
        groups.setdefault(_group(stage), []).append(stage)
    if len(groups) > MAX_BOXES:
        return None
    edges = {
        group: {_group(need) for stage in stages for need in needs[stage] if need in needs}
        - {group}
        for group, stages in groups.items()
    }
    columns: dict[str, int] = {}
    for group in groups:
        _column(group, edges, columns)
    heights: dict[int, int] = {}
    boxes: dict[str, Box] = {}
    for group, stages in groups.items():
        column = columns[group]
        row = heights.get(column, 0)
        heights[column] = row + 1
        x, y = column * (BOX_WIDTH + GAP_X), row * (BOX_HEIGHT + GAP_Y)
        boxes[group] = Box(group, _state_of(stages, states), x, y, len(stages))
    middle = BOX_HEIGHT // 2
    lines = tuple(
        (boxes[need].x + BOX_WIDTH, boxes[need].y + middle, boxes[group].x, boxes[group].y + middle)
        for group, needed in edges.items()
        for need in sorted(needed)
    )
    return Graph(
        boxes=tuple(boxes.values()),
        lines=lines,
        width=max((box.x for box in boxes.values()), default=0) + BOX_WIDTH,
        height=max((box.y for box in boxes.values()), default=0) + BOX_HEIGHT,
    )


def _group(stage: str) -> str:
    """The cells of a matrix are named `stage/cell`."""
    return stage.partition("/")[0]


def _column(group: str, edges: Mapping[str, set[str]], columns: dict[str, int]) -> int:
    if group not in columns:
        columns[group] = 0
        columns[group] = max(
            (_column(need, edges, columns) + 1 for need in edges[group]), default=0
        )
    return columns[group]


_WORST_FIRST = (
    "failed",
    "lost",
    "interrupted",
    "cancelled",
    "blocked",
    "running",
    "waiting",
    "done",
    "reused",
)


def _state_of(stages: Sequence[str], states: Mapping[str, str]) -> str:
    found = {states.get(stage, "waiting") for stage in stages}
    return next((state for state in _WORST_FIRST if state in found), "waiting")
