"""`extends: base.yaml`: a job file laid over another one, field by field."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.spec.faults import Faults, one_line
from orchestrator.spec.locations import refuse_unexpanded
from orchestrator.spec.yaml.loader import load_tree
from orchestrator.spec.yaml.node import Node

FIELD = "extends"


def load_extended_tree(path: Path, faults: Faults) -> Node | None:
    """The tree of a file, laid over the tree of the file that it extends, and so on; None when one
    cannot be read.

    A mapping is merged with the one below it; anything else, a list too, replaces what is
    there.
    """
    return _load(path, (), faults)


def _load(path: Path, over: tuple[Path, ...], faults: Faults) -> Node | None:
    """`over` are the files that lead here, the first one first."""
    tree = load_tree(path, faults)
    if tree is None or FIELD not in tree.members:
        return tree
    field, rest = tree.split((FIELD,))
    base_path = _base_path(path, field.members[FIELD], (*over, path), faults)
    base = _load(base_path, (*over, path), faults) if base_path else None
    return laid_over(base, rest) if base else None


def _base_path(path: Path, named: Node, trail: tuple[Path, ...], faults: Faults) -> Path | None:
    """The file that `named` means, relative to `path`; None with a fault for none."""
    if not isinstance(named.value, str) or not named.value:
        faults.add(
            named.at, FIELD, "must be the path of a job file, against the folder of this one"
        )
        return None
    try:
        refuse_unexpanded(named.value)
    except ValueError as err:
        faults.add(named.at, FIELD, str(err))
        return None
    base_path = path.parent / named.value
    try:
        is_file = base_path.is_file()
        before = [other for other in trail if is_file and other.samefile(base_path)]
    except OSError as err:
        faults.add(named.at, FIELD, f"{one_line(str(base_path))} cannot be read: {err.strerror}")
        return None
    if not is_file:
        faults.add(named.at, FIELD, f"{one_line(str(base_path))} is no file")
        return None
    if before:
        chain = " -> ".join(map(str, [*trail[trail.index(before[0]) :], base_path]))
        faults.add(named.at, FIELD, f"a cycle of files: {chain}")
        return None
    return base_path


def laid_over(base: Node, over: Node) -> Node:
    """`base` with what `over` says; fields of both are in the order of `base`, the others behind
    them."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    merged = {
        key: laid_over(base.value[key], node) if key in base.value else node
        for key, node in over.value.items()
    }
    return replace(over, value={**base.value, **merged})
