"""The sampled values of each param of a search, as numbers or choices, for plots and
importances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from statistics import median

from pydantic import JsonValue

from orchestrator.artifact import canonical_json
from orchestrator.trials import Trial

LOG_SPAN = 10
"""Only positive numbers whose ratio exceeds this may be shown and weighed by their logarithm."""


@dataclass(frozen=True)
class SampledParam:
    """One searched param over some trials. `values` are in the order of the trials."""

    name: str
    values: tuple[JsonValue, ...]

    @property
    def numbers(self) -> tuple[float, ...] | None:
        """The values, if all of them are numbers. Booleans are not numbers."""
        found = [
            float(value)
            for value in self.values
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        return tuple(found) if len(found) == len(self.values) else None

    @property
    def texts(self) -> tuple[str, ...]:
        """The values as text: one text per JSON value, including mappings and lists."""
        return tuple(value_words(value) for value in self.values)

    @property
    def choices(self) -> tuple[str, ...]:
        """The different texts, sorted."""
        return tuple(sorted(set(self.texts)))

    @property
    def is_log(self) -> bool:
        """Whether the logarithms of the values are spread more evenly than the values."""
        numbers = self.numbers
        if numbers is None or min(numbers) <= 0 or max(numbers) <= LOG_SPAN * min(numbers):
            return False
        return _lopsidedness([log(number) for number in numbers]) < _lopsidedness(numbers)


def varied_params(trials: Sequence[Trial]) -> tuple[SampledParam, ...]:
    """Return the params that all of `trials` have and that differ between them, in the order of the
    samples."""
    first = trials[0].params if trials else {}
    shared = [name for name in first if all(name in trial.params for trial in trials)]
    params = [SampledParam(name, tuple(trial.params[name] for trial in trials)) for name in shared]
    return tuple(
        param for param in params if len({canonical_json(value) for value in param.values}) > 1
    )


def _lopsidedness(numbers: Sequence[float]) -> float:
    """Return the distance of the median from the middle, as a share of the span: near 0 for even
    samples, at most 0.5."""
    low, high = min(numbers), max(numbers)
    return abs(median(numbers) - (low + high) / 2) / (high - low)


def value_words(value: JsonValue) -> str:
    """Format a sampled value: four digits of a number, a string as it is, anything else as JSON."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else canonical_json(value).decode()
