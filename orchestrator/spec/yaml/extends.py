"""`extends: base.yaml`: a job file that overrides another one, field by field."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.spec.faults import Faults, one_line
from orchestrator.spec.locations import refuse_unexpanded
from orchestrator.spec.yaml.loader import load_tree
from orchestrator.spec.yaml.node import Node

FIELD = "extends"


def load_extended_tree(path: Path, faults: Faults) -> Node | None:
    """Return the tree of a file merged over the tree of the file that it extends, recursively.

    Returns None if one of the files cannot be read. Mappings are merged; any other value, including
    a list, replaces the one of the extended file.
    """
    return _load(path, (), faults)


def _load(path: Path, over: tuple[Path, ...], faults: Faults) -> Node | None:
    """Load `path`. `over` are the files that extend it, outermost first."""
    tree = load_tree(path, faults)
    if tree is None or FIELD not in tree.members:
        return tree
    field, rest = tree.split((FIELD,))
    base_path = _base_path(path, field.members[FIELD], (*over, path), faults)
    base = _load(base_path, (*over, path), faults) if base_path else None
    return laid_over(base, rest) if base else None


def _base_path(path: Path, named: Node, trail: tuple[Path, ...], faults: Faults) -> Path | None:
    """Resolve the file name in `named` relative to `path`. Adds a fault and returns None if there
    is no such file."""
    if not isinstance(named.value, str) or not named.value:
        faults.add(
            named.at, FIELD, "must be the path of a job file, relative to the folder of this one"
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
        faults.add(named.at, FIELD, f"{one_line(str(base_path))} does not exist or is not a file")
        return None
    if before:
        chain = " -> ".join(map(str, [*trail[trail.index(before[0]) :], base_path]))
        faults.add(named.at, FIELD, f"a cycle of files: {chain}")
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
