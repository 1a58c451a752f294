"""What the trials of a search sampled, param by param, as charts and importances need it: numbers
or choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from statistics import median

from pydantic import JsonValue

from orchestrator.artifact import canonical_json
from orchestrator.trials import Trial

LOG_SPAN = 10
"""Only positive numbers that span more than this may be shown, and weighed, by their logarithm."""


@dataclass(frozen=True)
class SampledParam:
    """One searched param over some trials; `values` are in the order of these."""

    name: str
    values: tuple[JsonValue, ...]

    @property
    def numbers(self) -> tuple[float, ...] | None:
        """The values where all of them are numbers; a switch is none."""
        found = [
            float(value)
            for value in self.values
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        return tuple(found) if len(found) == len(self.values) else None

    @property
    def texts(self) -> tuple[str, ...]:
        """The values in writing: one text for each JSON value, mappings and lists too."""
        return tuple(value_words(value) for value in self.values)

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts that occur, each once, sorted."""
        return tuple(sorted(set(self.texts)))

    @property
    def is_log(self) -> bool:
        """Whether the logarithms of the values spread more evenly than they do."""
        numbers = self.numbers
        if numbers is None or min(numbers) <= 0 or max(numbers) <= LOG_SPAN * min(numbers):
            return False
        return _lopsidedness([log(number) for number in numbers]) < _lopsidedness(numbers)


def varied_params(trials: Sequence[Trial]) -> tuple[SampledParam, ...]:
    """The params that all of `trials` have and that are not the same in all, in the order of the
    samples."""
    first = trials[0].params if trials else {}
    shared = [name for name in first if all(name in trial.params for trial in trials)]
    params = [SampledParam(name, tuple(trial.params[name] for trial in trials)) for name in shared]
    return tuple(
        param for param in params if len({canonical_json(value) for value in param.values}) > 1
    )


def _lopsidedness(numbers: Sequence[float]) -> float:
    """How far the median is from the middle, as a share of the span: near 0 of even samples, 0.5 at
    most."""
    low, high = min(numbers), max(numbers)
    return abs(median(numbers) - (low + high) / 2) / (high - low)


def value_words(value: JsonValue) -> str:
    """A sampled value as it is read: four digits of a number, a text as it is, JSON of anything
    else."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else canonical_json(value).decode()
