"""Validate a marked tree with a pydantic model. Pydantic's errors become faults in plain words, at
their marks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated, Any, Generic, TypeVar, cast, get_args

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.artifact import canonical_json
from orchestrator.contract import MISFIT, Check, Misfit, Params
from orchestrator.spec.faults import Faults, Mark, dotted
from orchestrator.spec.wording import is_type_mismatch, message_of
from orchestrator.spec.yaml.node import Node, plain

M = TypeVar("M", bound=Params)
T = TypeVar("T")


@dataclass(frozen=True)
class Checked(Generic[M]):
    """The result of checking a mapping of fields."""

    whole: M | None
    """None if a field has a fault."""
    sound: M
    """The fields without faults. Reading one of the others raises AttributeError."""


@dataclass(frozen=True)
class _Problem:
    """One pydantic error. `branch` names the union member that it comes from; `branch_at` is the
    location of the union."""

    steps: tuple[str | int, ...]
    branch: str | None
    branch_at: tuple[str | int, ...]
    error: ErrorDetails

    @property
    def is_mismatch(self) -> bool:
        """Whether the value has a type that this member of the union does not accept."""
        return self.steps == self.branch_at and is_type_mismatch(self.error)


def validate(
    model: type[M], node: Node, path: str, faults: Faults, *, also_known: Iterable[str] = ()
) -> M | None:
    """Return the model, or add faults and return None.

    Strict: "3" is not a number and 1.0 is not a whole number; a list is accepted as a tuple.
    `also_known` are names to suggest in addition to the model's fields.
    """
    return check(model, node, path, faults, also_known=also_known).whole


def check(
    model: type[M],
    node: Node,
    path: str,
    faults: Faults,
    *,
    also_known: Iterable[str] = (),
    base: Params | None = None,
) -> Checked[M]:
    """Like `validate`, but also return the fields without faults. Faults that `base` already has
    are not added again."""
    content = plain(node)
    assert isinstance(content, dict), "the fields of a model are a mapping"
    lacking = missing_fields(base) if base else frozenset()
    try:
        whole = model.model_validate_json(canonical_json(content))
    except ValidationError as err:
        problems = [_located(error, content) for error in err.errors(include_url=False)]
    else:
        return (
            Checked(None, sound_part(model, content, lacking=lacking))
            if lacking
            else Checked(whole, whole)
        )
    problems = [
        problem for problem in problems if not problem.steps or problem.steps[0] not in lacking
    ]
    for group in _by_place(problem for problem in problems if problem.error["type"] != MISFIT):
        problem = group[0]
        names = [
            *_fields_at(model, problem.steps[:-1]),
            *(also_known if len(problem.steps) == 1 else ()),
        ]
        message = message_of([member.error for member in group], names)
        faults.add(_mark(node, problem), _path(path, problem.steps), message)
    sound = sound_part(model, content, lacking=lacking)
    blamed = {misfit.steps for misfit in _misfits_in(base, {})} if base else set()
    # Pydantic used defaults for the lacking fields, so its misfits may be wrong.
    among = () if lacking else _misfits_among(problems)
    for misfit in dict.fromkeys([*_misfits_in(sound, content), *among]):
        if misfit.steps not in blamed:
            add_misfit(misfit, node, path, faults)
    return Checked(None, sound)


def _misfits_among(problems: Iterable[_Problem]) -> Iterator[Misfit]:
    for problem in problems:
        if problem.error["type"] == MISFIT:
            yield Misfit(problem.steps, problem.error["ctx"]["text"])


def add_misfit(misfit: Misfit, node: Node, path: str, faults: Faults) -> None:
    """Add a fault at the field that causes the misfit."""
    faults.add(_mark_of_misfit(node, misfit.steps), _path(path, misfit.steps), misfit.message)


def missing_fields(params: Params) -> frozenset[str]:
    """Names of the fields that the sound part of params lacks because they have a fault."""
    return frozenset(type(params).model_fields) - vars(params).keys()


def known(params: Params, question: Callable[[], T]) -> T | None:
    """Call `question`, which reads `params`. Returns None if it reads a field that has a fault."""
    if not missing_fields(params):
        return question()
    try:
        return question()
    except AttributeError:
        return None


def sound_part(
    model: type[M], content: Mapping[str, JsonValue], *, lacking: Collection[str] = ()
) -> M:
    """Return a model with the fields of `content` that are valid by themselves, and the defaults of
    fields that are not given.

    Fields in `lacking` already had a fault and are left out.
    """
    values: dict[str, Any] = {}
    for name in model.model_fields.keys() & content.keys():
        try:
            values[name] = _type_of(model, name).validate_json(
                canonical_json(content[name]), strict=True
            )
        except ValidationError:
            continue
    sound: M = cast(Any, model).model_construct(**values)
    for name in {*content, *lacking} - values.keys():
        vars(sound).pop(name, None)  # model_construct gave it its default
    return sound


@cache
def _type_of(model: type[Params], name: str) -> TypeAdapter[Any]:
    info = model.model_fields[name]
    annotated: Any = Annotated[info.annotation, info]
    return TypeAdapter(annotated)


def _all_of(fields_fit: Check) -> tuple[Misfit, ...]:
    return tuple(fields_fit())


def _misfits_in(sound: Params, content: Mapping[str, JsonValue]) -> Iterator[Misfit]:
    """Misfits of the sound fields of `content`. Pydantic does not look for them if other fields
    have faults."""
    for fields_fit in sound.checks():
        yield from known(sound, partial(_all_of, fields_fit)) or ()
    for name in missing_fields(sound) & content.keys():
        inside = content[name]
        if isinstance(inside, dict):
            for model in _models_in(type(sound).model_fields[name].annotation):
                found = _misfits_in(sound_part(model, inside), inside)
                yield from (Misfit((name, *misfit.steps), misfit.message) for misfit in found)


def _located(error: ErrorDetails, content: JsonValue) -> _Problem:
    """Split a pydantic location into the steps of a path and the names of union members."""
    steps: list[str | int] = []
    branch, branch_at = None, 0
    room: Any = content
    for index, step in enumerate(error["loc"]):
        is_missing = error["type"] in ("missing", MISFIT) and index == len(error["loc"]) - 1
        if is_missing or _leads_on(room, step):
            steps.append(step)
            room = room[step] if _leads_on(room, step) else None
        elif branch is None:
            branch, branch_at = str(step), len(steps)
    return _Problem(
        tuple(steps), branch, tuple(steps[:branch_at]) if branch else tuple(steps), error
    )


def _leads_on(room: Any, step: str | int) -> bool:
    if isinstance(room, list):
        return isinstance(step, int) and step < len(room)
    return isinstance(room, Mapping) and step in room


def _by_place(problems: Iterable[_Problem]) -> Iterator[list[_Problem]]:
    """Group the problems that make one fault.

    Each problem is its own group, except when no member of a union accepts the value's type: then
    the mismatches of all members are one group.
    """
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
    return (
        nearest.key_at if is_about_fields or kind in ("extra_forbidden", "missing") else nearest.at
    )


def _mark_of_misfit(node: Node, steps: Sequence[str | int]) -> Mark:
    """Position of the field, or of its parent if the field is not written."""
    nearest = node.nearest(steps)
    is_written = steps and nearest is not node.nearest(steps[:-1])
    return nearest.at if is_written else nearest.key_at


def _path(path: str, steps: Iterable[str | int]) -> str:
    for step in steps:
        path = dotted(path, step)
    return path


def _fields_at(model: type[Params], steps: Sequence[str | int]) -> list[str]:
    """Names of the fields that are allowed at the end of `steps`."""
    models = [model]
    for step in steps:
        fields = [
            inner.model_fields[step]
            for inner in models
            if isinstance(step, str) and step in inner.model_fields
        ]
        # A step that is not a field is a list index or a dict key: its values have the same models.
        models = (
            [found for field in fields for found in _models_in(field.annotation)]
            if fields
            else models
        )
    return [name for inner in models for name in inner.model_fields]


def _models_in(annotation: Any) -> list[type[Params]]:
    if isinstance(annotation, type) and issubclass(annotation, Params):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
