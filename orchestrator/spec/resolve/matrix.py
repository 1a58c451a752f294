"""`matrix: {method: [fcos, atss], seed: [0, 1]}`: expand a stage into one stage per combination,
its cells.

A matrix may also list its cells: `matrix: [{epochs: 3, lr: 0.1}, {epochs: 9, lr: 0.01}]`. A field
that points to all cells of another matrix, written `STAGE/*`, makes one cell for each of them.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.spec.faults import Faults, dotted, shown
from orchestrator.spec.yaml.node import Node, plain

FIELD = "matrix"
MAX_CELLS = 1000
"""The limit of cells of one stage. More would be over a thousand trainings, surely a mistake."""

_ALL_CELLS = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)/\*(\.[A-Za-z][A-Za-z0-9_]*)?")


@dataclass(frozen=True)
class WrittenStage:
    """A stage after expansion. `name_in_file` is its own name or, for a cell, the name of its
    matrix."""

    node: Node
    name_in_file: str


@dataclass(frozen=True)
class _Choice:
    """Fields that a cell gets together, and their label in the cell's name."""

    label: str
    fields: Mapping[str, Node]


_Axis = Sequence[_Choice]


def expand_stages(stages: Mapping[str, Node], faults: Faults) -> dict[str, WrittenStage]:
    """Return every stage by name, in the order of the file. Cells are named
    `STAGE/LABEL-LABEL`."""
    expansion = _Expansion(stages, faults)
    return {cell: written for name in stages for cell, written in expansion.cells_of(name).items()}


def cells_named(name: str, stages: Sequence[str] | Mapping[str, object]) -> list[str]:
    """The stages that `name` refers to: the stage itself, or all cells of a matrix."""
    return [stage for stage in stages if stage == name or stage.startswith(f"{name}/")]


class _Expansion:
    """Expands each stage once. A stage that another one's `STAGE/*` points to is expanded first."""

    def __init__(self, stages: Mapping[str, Node], faults: Faults) -> None:
        self._stages, self._faults = stages, faults
        self._cells: dict[str, dict[str, WrittenStage]] = {}
        self._without_cells: set[str] = set()
        """Stages without cells because their matrix has a fault."""

    def cells_of(self, name: str) -> dict[str, WrittenStage]:
        if name not in self._cells:
            self._cells[name] = {}  # a stage that points to its own cells finds none
            self._cells[name] = self._expand(name, self._stages[name])
        return self._cells[name]

    def _expand(self, name: str, stage: Node) -> dict[str, WrittenStage]:
        if not stage.members:
            return {name: WrittenStage(stage, name)}
        field, rest = stage.split((FIELD,))
        matrix = field.members.get(FIELD)
        axes = [*self._pointed(name, rest), *(self._axes(name, matrix, rest) if matrix else ())]
        num_cells = math.prod(len(axis) for axis in axes)
        if num_cells > MAX_CELLS:
            self._fault(name, matrix or stage, f"makes {num_cells} cells; the limit is {MAX_CELLS}")
        cells = self._combined(name, rest, axes) if axes and 0 < num_cells <= MAX_CELLS else {}
        if cells:
            return cells
        if matrix is None and not axes:
            return {name: WrittenStage(rest, name)}
        # The matrix has a fault. Keep one stage, so that its other fields are checked and
        # references to it resolve.
        self._without_cells.add(name)
        return {name: WrittenStage(_filled(rest, [axis[0] for axis in axes if axis]), name)}

    def _combined(self, name: str, rest: Node, axes: Sequence[_Axis]) -> dict[str, WrittenStage]:
        cells = list(itertools.product(*axes))
        names = [f"{name}/{'-'.join(choice.label for choice in cell)}" for cell in cells]
        twice = [cell for cell, count in Counter(names).items() if count > 1]
        if twice:
            self._fault(
                name,
                self._stages[name],
                f"two cells are named {twice[0]}; use values that differ in letters or digits",
            )
            return {}
        return {
            cell: WrittenStage(_filled(rest, choices), name)
            for cell, choices in zip(names, cells, strict=True)
        }

    def _axes(self, name: str, matrix: Node, rest: Node) -> list[_Axis]:
        if isinstance(matrix.value, tuple) and matrix.value:
            return [self._listed(name, matrix.value, rest)]
        if not matrix.members:
            self._fault(
                name,
                matrix,
                "must map fields to lists of values, such as {seed: [0, 1]}, or list cells",
            )
        for field, values in matrix.members.items():
            self._check_free(name, field, values, rest)
            if not isinstance(values.value, tuple):
                self._fault(
                    name, values, f"must be a list of values, not {_described(values)}", field
                )
            elif not values.value:
                self._fault(name, values, "must not be empty", field)
        return [_values(field, values) for field, values in matrix.members.items()]

    def _listed(self, name: str, cells: Sequence[Node], rest: Node) -> _Axis:
        """The cells of a list, labelled by their first field."""
        for index, cell in enumerate(cells):
            if not cell.members:
                self._fault(name, cell, "must be a mapping of fields, such as {seed: 0}", index)
            for field, value in cell.members.items():
                self._check_free(name, field, value, rest, index)
        return [
            _Choice(_label(next(iter(cell.members.values()), cell), i), cell.members)
            for i, cell in enumerate(cells)
        ]

    def _pointed(self, name: str, rest: Node) -> list[_Axis]:
        """An axis for each field with `STAGE/*`. Each value points to one cell of that stage."""
        axes: list[_Axis] = []
        for field, node in rest.members.items():
            match = _ALL_CELLS.fullmatch(node.value) if isinstance(node.value, str) else None
            if match is None:
                continue
            target, output = match[1], match[2] or ""
            cells = (
                [cell for cell in self.cells_of(target) if "/" in cell]
                if target in self._stages
                else []
            )
            if target in self._without_cells:
                axes.append([_Choice("", {field: replace(node, value=f"{target}{output}")})])
                continue
            if not cells:
                message = f"{target!r} has no cells; STAGE/* points to a stage with a matrix"
                self._faults.add(node.at, dotted(dotted("stages", name), field), message)
            axes.append(
                [
                    _Choice(cell.partition("/")[2], {field: replace(node, value=f"{cell}{output}")})
                    for cell in cells
                ]
            )
        return axes

    def _check_free(self, name: str, field: str, node: Node, rest: Node, *steps: int) -> None:
        if field in rest.members:
            message = "is also a field of the stage; remove one of the two"
            self._fault(name, node, message, *steps, field)

    def _fault(self, name: str, node: Node, message: str, *steps: str | int) -> None:
        path = dotted(dotted("stages", name), FIELD)
        for step in steps:
            path = dotted(path, step)
        self._faults.add(node.key_at, path, message)


def _values(field: str, values: Node) -> _Axis:
    items = values.value if isinstance(values.value, tuple) else ()
    return [
        _Choice(_label(item, i), {field: replace(item, key_at=values.key_at)})
        for i, item in enumerate(items)
    ]


def _label(item: Node, index: int) -> str:
    """Format a value as part of a cell's name. A list or mapping is labelled by its index."""
    if isinstance(item.value, tuple | Mapping):
        return str(index)
    return re.sub(r"[^A-Za-z0-9_-]+", "_", _text(item)).strip("_") or str(index)


def _text(item: Node) -> str:
    return (
        str(item.value).lower()
        if item.value is None or isinstance(item.value, bool)
        else str(item.value)
    )


def _described(node: Node) -> str:
    return "a mapping" if isinstance(node.value, Mapping) else shown(plain(node))


def _filled(stage: Node, choices: Sequence[_Choice]) -> Node:
    """Return the stage with the cell's fields, and with `{field}` in its strings replaced by that
    field's label."""
    fields = {field: node for choice in choices for field, node in choice.fields.items()}
    labels = {
        f"{{{field}}}": _label_of(field, choice) for choice in choices for field in choice.fields
    }
    return _replaced(replace(stage, value={**stage.members, **fields}), labels)


def _label_of(field: str, choice: _Choice) -> str:
    """The label of a field in the cell's name. A field that points to a cell of another matrix has
    that cell's name as its label."""
    return choice.label if len(choice.fields) == 1 else _label(choice.fields[field], 0)


def _replaced(node: Node, labels: Mapping[str, str]) -> Node:
    if isinstance(node.value, Mapping):
        return replace(
            node, value={key: _replaced(member, labels) for key, member in node.value.items()}
        )
    if isinstance(node.value, tuple):
        return replace(node, value=tuple(_replaced(item, labels) for item in node.value))
    if isinstance(node.value, str):
        return replace(node, value=_substituted(node.value, labels))
    return node


def _substituted(text: str, labels: Mapping[str, str]) -> str:
    for pattern, label in labels.items():
        # `${data}` is a shell variable: it is kept, so that the check of paths refuses it
        text = re.sub(rf"(?<!\$){re.escape(pattern)}", label, text)
    return text
