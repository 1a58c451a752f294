"""A marked tree -> a pydantic model, or pydantic's errors as faults in plain words at their marks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.artifact import canonical_json
from orchestrator.spec.faults import Faults, Mark, dotted
from orchestrator.spec.tree import Node, plain
from orchestrator.spec.wording import is_type_mismatch, message_of

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class _Problem:
    """One error of pydantic's; `branch` names the member of a union that it comes from, which stands at `branch_at`."""

    steps: tuple[str | int, ...]
    branch: str | None
    branch_at: tuple[str | int, ...]
    error: ErrorDetails

    @property
    def is_mismatch(self) -> bool:
        """The value is of another type than this member of the union takes."""
        return self.steps == self.branch_at and is_type_mismatch(self.error)


def validate(model: type[M], node: Node, path: str, faults: Faults, *, also_known: Iterable[str] = ()) -> M | None:
    """The model, or None with its faults added. Strict: "3" is no number, 1.0 no whole number, a list is a tuple.

    `also_known` are names that live beside the model's fields: they are suggested, too.
    """
    content = plain(node)
    try:
        return model.model_validate_json(canonical_json(content))
    except ValidationError as err:
        problems = [_located(error, content) for error in err.errors(include_url=False)]
    for group in _by_place(problems):
        problem = group[0]
        known = [*_fields_at(model, problem.steps[:-1]), *(also_known if len(problem.steps) == 1 else ())]
        message = message_of([member.error for member in group], known)
        faults.add(_mark(node, problem), _path(path, problem.steps), message)
    return None


def _located(error: ErrorDetails, content: JsonValue) -> _Problem:
    """Tell the steps of a location from the names of union members that pydantic mixes into it."""
    steps: list[str | int] = []
    branch, branch_at = None, 0
    room: Any = content
    for index, step in enumerate(error["loc"]):
        is_missing = error["type"] == "missing" and index == len(error["loc"]) - 1
        if is_missing or _leads_on(room, step):
            steps.append(step)
            room = None if is_missing else room[step]
        elif branch is None:
            branch, branch_at = str(step), len(steps)
    return _Problem(tuple(steps), branch, tuple(steps[:branch_at]) if branch else tuple(steps), error)


def _leads_on(room: Any, step: str | int) -> bool:
    if isinstance(room, list):
        return isinstance(step, int) and step < len(room)
    return isinstance(room, Mapping) and step in room


def _by_place(problems: Sequence[_Problem]) -> Iterator[list[_Problem]]:
    """Problems that make one fault: each on its own, but the mismatches of a union that has no member of that type."""
    unions: dict[tuple[str | int, ...], list[_Problem]] = {}
    for problem in problems:
        if problem.branch is None:
            yield [problem]
        else:
            unions.setdefault(problem.branch_at, []).append(problem)
    for members in unions.values():
        meant = [problem for problem in members if not problem.is_mismatch]
        if meant:
            yield from ([problem] for problem in meant)
        else:
            yield members


def _mark(node: Node, problem: _Problem) -> Mark:
    nearest, kind = node.nearest(problem.steps), problem.error["type"]
    is_about_fields = kind == "value_error" and isinstance(nearest.value, Mapping)
    return nearest.key_at if is_about_fields or kind in ("extra_forbidden", "missing") else nearest.at


def _path(path: str, steps: Iterable[str | int]) -> str:
    for step in steps:
        path = dotted(path, step)
    return path


def _fields_at(model: type[BaseModel], steps: Sequence[str | int]) -> list[str]:
    """The names of the fields that may stand at the end of `steps`."""
    models = [model]
    for step in steps:
        fields = [inner.model_fields[step] for inner in models if isinstance(step, str) and step in inner.model_fields]
        # a step that is no field is an index or the key of a dict: the models stay those of its values
        models = [found for field in fields for found in _models_in(field.annotation)] if fields else models
    return [name for inner in models for name in inner.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
