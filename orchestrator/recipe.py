"""How a stage's params differ from a recipe or from the kind's reference recipe. Pure.

The reference recipe of a kind is the defaults of its params, except the values in `reference`.
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
    """Return each param in the Key that differs in effect from `recipe`, or from its default if
    `recipe` does not have it.

    A missing param counts as null. Params that only add metrics or outputs, or only check, are not
    differences.
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
    """Return each param in the Key that differs from the reference recipe, except those in
    `searched` (dotted paths).

    Params without a default, and a model by its published name, are choices, not deviations.
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
