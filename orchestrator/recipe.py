"""What of a stage's params differs from a reference: from a recipe, or from the defaults of its
kind. Pure.

The defaults of a kind's params are the reference recipe, but for what its `reference` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import JsonValue
from pydantic_core import to_jsonable_python

from orchestrator.artifact import Deviation
from orchestrator.contract import Params, Role


def param_deviations(
    params: Params, recipe: Mapping[str, JsonValue], *, searched: Iterable[str] = ()
) -> dict[str, Deviation]:
    """Each param in the Key that has another effect than in `recipe` and, where that says nothing,
    than by default.

    A param that is not there is null. A param that only adds metrics or outputs, or only checks, is
    not a difference.
    """
    ignored = {*params.fields_with(Role.ADDS), *params.checking_fields}
    used = {
        name: value
        for name, value in params.in_key(searched=searched).items()
        if name not in ignored
    }
    reference = {**_defaults(params, used), **recipe}
    return {
        name: Deviation(used=used.get(name), reference=reference.get(name))
        for name in dict.fromkeys([*used, *reference])
        if used.get(name) != reference.get(name)
    }


def recipe_audit(params: Params, *, searched: Iterable[str] = ()) -> dict[str, Deviation]:
    """Each param in the Key that is not as in the reference recipe; not those `searched`, by dotted
    path.

    What has no default and a model by its published name are choices, not deviations.
    """
    searched = tuple(searched)
    fields = type(params).model_fields
    required = {name for name, info in fields.items() if info.is_required()}
    choices = required | params.choices | {*searched}
    models = params.fields_with(Role.MODEL)
    return {
        name: deviation
        for name, deviation in param_deviations(params, params.reference, searched=searched).items()
        if name not in choices and not (name in models and isinstance(deviation.used, str))
    }


def _defaults(params: Params, used: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return {
        name: to_jsonable_python(info.get_default(call_default_factory=True))
        for name, info in type(params).model_fields.items()
        if name in used and not info.is_required()
    }
