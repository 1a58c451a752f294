"""Check that `overrides` and searched values fit the params of another stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from orchestrator.contract import Params, Role
from orchestrator.spec.faults import Faults, Mark, dotted
from orchestrator.spec.locations import data_location
from orchestrator.spec.resolve.draft import Draft
from orchestrator.spec.validate import check, missing_fields
from orchestrator.spec.yaml.node import Node, marked, put

OVERRIDES = "overrides"


def absolute_overrides(
    draft: Draft,
    overrides: Mapping[str, JsonValue],
    params: Params,
    base_dir: Path | None,
    faults: Faults,
    *,
    inputs_are: str,
) -> dict[str, JsonValue]:
    """Return `overrides` with absolute data folders. An override of an input is a fault, explained
    by `inputs_are`."""
    absolute = dict(overrides)
    for name, value in overrides.items():
        try:
            if name in params.fields_with(Role.INPUT):
                raise ValueError(f"is an input; {inputs_are}")
            if name in params.fields_with(Role.DATA) and isinstance(value, str):
                absolute[name] = data_location(value, base_dir)
        except ValueError as err:
            mark = draft.node.nearest([OVERRIDES, name]).at
            faults.add(mark, dotted(dotted(draft.path, OVERRIDES), name), str(err))
    return absolute


def overridden(draft: Draft, params: Params, faults: Faults) -> Params:
    """Return `params` with the draft's `overrides`, as `overlaid` does. Data folders stay as
    written."""
    written = draft.node.members.get(OVERRIDES)
    if written is None:
        return params
    return overlaid(params, written.members, written.key_at, dotted(draft.path, OVERRIDES), faults)


def overlaid(
    params: Params, values: Mapping[str, Node], at: Mark, path: str, faults: Faults
) -> Params:
    """Return the sound part of `params` with `values`, keyed by dotted path.

    Like Params.overlay, but with faults at their marks. Values for fields that `params` lacks are
    ignored.
    """
    tree: Node = marked(params.model_dump(mode="json"), at)
    missing = missing_fields(params)
    for name, value in values.items():
        steps = name.split(".")
        if steps[0] in missing:
            continue
        try:
            tree = put(tree, steps, value, may_make=False)
        except ValueError as err:
            faults.add(value.key_at, dotted(path, name), str(err))
    return check(type(params), tree, path, faults, base=params).sound
