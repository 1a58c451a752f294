"""A marked tree -> a pydantic model, or pydantic's errors as faults in plain words at their
marks."""

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
    """What became of a mapping of fields."""

    whole: M | None
    """None where it has faults."""
    sound: M
    """The fields without faults; the others are missing, and to read one raises AttributeError."""


@dataclass(frozen=True)
class _Problem:
    """One error of pydantic's; `branch` names the member of a union that it comes from, which
    is at `branch_at`."""

    steps: tuple[str | int, ...]
    branch: str | None
    branch_at: tuple[str | int, ...]
    error: ErrorDetails

    @property
    def is_mismatch(self) -> bool:
        """The value is of another type than this member of the union takes."""
        return self.steps == self.branch_at and is_type_mismatch(self.error)


def validate(
    model: type[M], node: Node, path: str, faults: Faults, *, also_known: Iterable[str] = ()
) -> M | None:
    """The model, or None with its faults added. Strict: "3" is not a number, 1.0 not a whole
    number, a list is a tuple.

    `also_known` are names in addition to the model's fields: they are suggested, too.
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
    """As `validate`, with the fields that are sound. Faults that the `base` of the node has are
    known already."""
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
    # Pydantic took defaults for the fields that are lacking.
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
    """A fault at the field to blame."""
    faults.add(_mark_of_misfit(node, misfit.steps), _path(path, misfit.steps), misfit.message)


def missing_fields(params: Params) -> frozenset[str]:
    """Those that have a fault, of the sound part of params."""
    return frozenset(type(params).model_fields) - vars(params).keys()


def known(params: Params, question: Callable[[], T]) -> T | None:
    """The answer to a question about `params`, None where it depends on a field that has a
    fault."""
    if not missing_fields(params):
        return question()
    try:
        return question()
    except AttributeError:
        return None


def sound_part(
    model: type[M], content: Mapping[str, JsonValue], *, lacking: Collection[str] = ()
) -> M:
    """The fields of `content` that are valid each on its own, with the defaults of those that are
    not given.

    Those `lacking` had a fault before.
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
    """Misfits of the sound fields of `content`, which pydantic does not look for where others have
    faults."""
    for fields_fit in sound.checks():
        yield from known(sound, partial(_all_of, fields_fit)) or ()
    for name in missing_fields(sound) & content.keys():
        inside = content[name]
        if isinstance(inside, dict):
            for model in _models_in(type(sound).model_fields[name].annotation):
                found = _misfits_in(sound_part(model, inside), inside)
                yield from (Misfit((name, *misfit.steps), misfit.message) for misfit in found)


def _located(error: ErrorDetails, content: JsonValue) -> _Problem:
    """Separate the steps of a location from the names of union members that pydantic mixes into
    it."""
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
    """Problems that make one fault: each on its own, but the mismatches of a union that has no
    member of that type."""
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
    """Where the field is written; where it is left to its default, what holds it."""
    nearest = node.nearest(steps)
    is_written = steps and nearest is not node.nearest(steps[:-1])
    return nearest.at if is_written else nearest.key_at


def _path(path: str, steps: Iterable[str | int]) -> str:
    for step in steps:
        path = dotted(path, step)
    return path


def _fields_at(model: type[Params], steps: Sequence[str | int]) -> list[str]:
    """The names of the fields that may be at the end of `steps`."""
    models = [model]
    for step in steps:
        fields = [
            inner.model_fields[step]
            for inner in models
            if isinstance(step, str) and step in inner.model_fields
        ]
        # a step that is not a field is an index or the key of a dict: the models stay those for its
        # values
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
