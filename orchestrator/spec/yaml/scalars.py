"""Plain YAML scalars -> values, by the core schema of YAML 1.2: `1e-3` is a number, `on` and `no`
are texts."""

from __future__ import annotations

import math
import re

Scalar = str | int | float | bool | None

_CONSTANTS: dict[str, Scalar] = {
    **dict.fromkeys(["", "~", "null", "Null", "NULL"], None),
    **dict.fromkeys(["true", "True", "TRUE"], True),
    **dict.fromkeys(["false", "False", "FALSE"], False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_DIGITS = 66
"""More than any 64-bit number has in base 8 to 16; beyond it Python's int() takes quadratic
time."""


def parse_plain(text: str) -> Scalar:
    """The value of an unquoted scalar; ValueError says what is wrong with a number that is none."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return _parse_integer(text)
    if _FLOAT.fullmatch(text):
        return _finite(float(text))
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("must be a finite number")
    return text


def _parse_integer(text: str) -> int:
    if len(text) <= _MAX_DIGITS:
        value = int(text, base=0) if text[:2] in ("0o", "0x") else int(text)
        if -(2**63) <= value < 2**63:
            return value
    raise ValueError("must fit in 64 bits")


def _finite(value: float) -> float:
    if math.isinf(value):
        raise ValueError("must be a finite number of double precision")
    return value
