"""`--set stages.pretrain.epochs=3`: put one value into the tree of a job file.

The value is checked later, like the rest of the tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.spec.faults import SET, Faults, Mark, suggestion
from orchestrator.spec.yaml.loader import parse_tree
from orchestrator.spec.yaml.node import Node, put

_MARK = Mark(SET)


@dataclass(frozen=True)
class Override:
    """A value for the dotted `path`. The steps of the path are the keys that lead there."""

    path: str
    value: Node

    @property
    def steps(self) -> list[str]:
        return self.path.split(".")


def parse_overrides(texts: Sequence[str], faults: Faults) -> list[Override]:
    """Parse `PATH=VALUE` strings. Adds a fault for each malformed one and leaves it out."""
    parsed = (_parse(text, faults) for text in texts)
    return [override for override in parsed if override is not None]


def _parse(text: str, faults: Faults) -> Override | None:
    path, equals, value = text.partition("=")
    if not equals or not all(path.split(".")):
        faults.add(
            _MARK, repr(text), "must be written PATH=VALUE, such as stages.pretrain.epochs=3"
        )
        return None
    inside = Faults()
    node = parse_tree(value, SET, inside)
    for fault in inside:
        steps = ".".join(filter(None, [path, fault.path]))
        faults.add(_MARK, steps, fault.message)
    return Override(path, node) if node is not None and not inside else None


def apply_overrides(tree: Node, overrides: Sequence[Override], faults: Faults) -> Node:
    """Return `tree` with the overrides applied in order. Adds a fault for each that does not
    fit."""
    for override in overrides:
        try:
            _check_stage(tree, override.steps)
            tree = put(tree, override.steps, override.value, may_make=True)
        except ValueError as err:
            faults.add(_MARK, override.path, str(err))
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
