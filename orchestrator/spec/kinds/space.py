"""Distribution: the values that a search samples for a param, written
`{loguniform: [1.0e-4, 1.0e-2]}`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from orchestrator.artifact import canonical_json
from orchestrator.contract import Params
from orchestrator.spec.faults import shown


class Distribution(Params):
    """The distribution of one param. Exactly one field is given; names and arguments follow Ray
    Tune."""

    uniform: tuple[float, float] | None = None
    """Between low and high."""
    loguniform: tuple[float, float] | None = None
    """Between low and high, evenly in the logarithm."""
    quniform: tuple[float, float, float] | None = None
    """`[low, high, step]`: multiples of the step between low and high."""
    randint: tuple[int, int] | None = None
    """Whole numbers from low up to, but not including, high."""
    choice: Annotated[tuple[JsonValue, ...], Field(min_length=1)] | None = None
    """One of the listed values."""

    @property
    def name(self) -> str:
        return next(iter(self.model_fields_set))

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments for `ray.tune.<name>(*args)`."""
        values = getattr(self, self.name)
        return (list(values),) if self.name == "choice" else tuple(values)

    @property
    def extremes(self) -> tuple[JsonValue, ...]:
        """The values to check so that all samples fit the param: both ends, or all choices."""
        if self.randint is not None:
            low, high = self.randint
            return low, high - 1
        return self.choice if self.choice is not None else self.args[:2]

    def holds(self, value: JsonValue) -> bool:
        """Whether `value` can be sampled from the distribution."""
        if self.choice is not None:
            return canonical_json(value) in map(canonical_json, self.choice)  # 1 is not true
        low, high = self.extremes
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.randint is not None and not isinstance(value, int):
            return False
        assert isinstance(low, int | float)
        assert isinstance(high, int | float)
        return low <= value <= high and (
            self.quniform is None or _is_multiple(value, self.quniform[2])
        )

    @model_validator(mode="after")
    def _one_sound_distribution(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1 or self.model_fields_set != set(given):
            raise ValueError(f"must be exactly one of {', '.join(type(self).model_fields)}")
        if self.choice is None:
            _check_bounds(self.name, self.args)
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        """Serialise only the given field, so that a new kind of distribution changes no Key."""
        return {self.name: dump(self)[self.name]}


def _check_bounds(name: str, args: Sequence[float]) -> None:
    low, high, *step = args
    if low >= high:
        raise ValueError(
            f"the low end of {name} must be less than the high end, not {shown(list(args))}"
        )
    if name == "loguniform" and low <= 0:
        raise ValueError(f"both ends of loguniform must be greater than 0, not {shown(list(args))}")
    if step:
        _check_step(low, high, step[0])


def _check_step(low: float, high: float, step: float) -> None:
    if step <= 0:
        raise ValueError(f"the step of quniform must be greater than 0, not {step:g}")
    # Ray rounds samples to multiples of the step, which could fall outside other bounds.
    if not (_is_multiple(low, step) and _is_multiple(high, step)):
        raise ValueError(
            f"both ends of quniform must be multiples of its step, not {shown([low, high, step])}"
        )


def _is_multiple(value: float, step: float) -> bool:
    return math.isclose(round(value / step) * step, value, abs_tol=step * 1e-9)
