"""Turn pydantic's errors into plain messages that show the value seen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic_core import ErrorDetails

from orchestrator.spec.faults import shown, suggestion

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "none_required": "null",
}
_TEMPLATES = {
    "greater_than_equal": "must be at least {ge}, not {value}",
    "greater_than": "must be greater than {gt}, not {value}",
    "less_than_equal": "must be at most {le}, not {value}",
    "less_than": "must be less than {lt}, not {value}",
    "multiple_of": "must be a multiple of {multiple_of}, not {value}",
    "too_short": "must have at least {min_length} items, not {actual_length}",
    "too_long": "must have at most {max_length} items, not {actual_length}",
    "string_too_short": "must have at least {min_length} characters, not {value}",
    "string_too_long": "must have at most {max_length} characters, not {value}",
    "string_pattern_mismatch": "must match {pattern}, not {value}",
    "value_error": "{error}",
}


def is_type_mismatch(error: ErrorDetails) -> bool:
    """Whether the value has the wrong type, or is not one of the allowed words."""
    return error["type"] in _EXPECTED or error["type"] == "literal_error"


def message_of(errors: Sequence[ErrorDetails], known: Sequence[str]) -> str:
    """Describe what is wrong with one value. For a union, `errors` has one error per member type.

    `known` are the names of the allowed fields.
    """
    if is_type_mismatch(errors[0]):
        return _mismatch(errors)
    error = errors[0]
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    last = error["loc"][-1] if error["loc"] else None
    if kind == "extra_forbidden":
        return f"unknown field{suggestion(str(last), known)}"
    if kind == "missing":
        return "is required" if isinstance(last, str) else f"has too few items: {shown(value)}"
    if kind == "too_short" and context["min_length"] == 1:
        return "must not be empty"
    if kind in _TEMPLATES:
        limits = {
            name: f"{limit:g}" if isinstance(limit, float) else limit
            for name, limit in context.items()
        }
        return _TEMPLATES[kind].format(**limits, value=shown(value))
    return f"{error['msg'][:1].lower()}{error['msg'][1:]}, not {shown(value)}"


def _mismatch(errors: Sequence[ErrorDetails]) -> str:
    value: Any = errors[0]["input"]
    expected = [_EXPECTED.get(error["type"]) or error["ctx"]["expected"] for error in errors]
    choices = [choice for words in expected for choice in re.findall(r"'([^']*)'", words)]
    near = suggestion(value, choices) if isinstance(value, str) else ""
    hint = near if near.startswith(", did") else ""
    return f"must be {' or '.join(dict.fromkeys(expected))}, not {shown(value)}{hint}"
