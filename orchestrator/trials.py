"""The trials of a search: the content of `trials.json` in its output `trials`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from orchestrator.artifact import Value

TRIALS_FILE = "trials.json"


class TrialState(StrEnum):
    """How a trial ended."""

    FINISHED = "finished"
    """The trial trained for all its epochs."""
    STOPPED = "stopped"
    """The scheduler ended it early."""
    FAILED = "failed"


class Point(Value):
    """A trial's report, usually of one epoch."""

    epoch: int
    """The trial's own epoch, counted from 1. It continues when a killed search is resumed."""
    value: float | None
    """The value of the search's metric. None if it was NaN or infinite."""
    elapsed_s: float
    """Seconds that the trial had run at this point, over all its attempts."""


class Trial(Value):
    """One sample of the space and its result."""

    number: Annotated[int, Field(ge=1)]
    """Trials are numbered in the order in which their samples were drawn."""
    id: str
    """The name of its folder, `trials/<id>` below the search's resume state."""
    params: Mapping[str, JsonValue]
    """The sampled values, by dotted path in the template's params."""
    state: TrialState
    curve: tuple[Point, ...]
    """The reports in the order of epochs, one per epoch."""
    value: float | None
    """The last value of the metric, or None if the trial reported none."""
    num_samples: int | None
    """The number of samples that `value` was measured on. None if the trial did not finish."""
    duration_s: float
    gpu_hours: float
    """GPU-hours of all its workers together."""
    core_hours: float
    error: str | None
    """Why the trial failed, on one line."""

    @property
    def epoch(self) -> int:
        """The last reported epoch; 0 before the first report."""
        return self.curve[-1].epoch if self.curve else 0


class Trials(Value):
    """All trials of a search, by number."""

    version: Literal[1] = 1
    metric: str
    mode: Literal["max", "min"]
    trials: tuple[Trial, ...]

    def best(self) -> Trial | None:
        """Return the best finished trial. If none finished, the best of those with the most epochs.
        The earliest of equal trials.

        A trial that was stopped early had a worse value than others at its epoch, so it is not
        compared with a finished one.
        """
        with_value = [
            trial
            for trial in self.trials
            if trial.value is not None and trial.state != TrialState.FAILED
        ]
        finished = [trial for trial in with_value if trial.state is TrialState.FINISHED]
        farthest = max((trial.epoch for trial in with_value), default=0)
        rivals = finished or [trial for trial in with_value if trial.epoch == farthest]
        return _best_of(rivals, self.mode)


def _best_of(trials: Sequence[Trial], mode: Literal["max", "min"]) -> Trial | None:
    sign = 1 if mode == "max" else -1
    return max(trials, key=lambda trial: sign * (trial.value or 0.0), default=None)
