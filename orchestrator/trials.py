"""What became of a search's trials: the content of its output `trials`, as `trials.json`."""

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
    """It trained to the end of its budget."""
    STOPPED = "stopped"
    """The scheduler ended it early."""
    FAILED = "failed"


class Point(Value):
    """A trial's report, for example of an epoch."""

    epoch: int
    """Counted from 1, the trial's own: it continues where a killed search is resumed."""
    value: float | None
    """Value of the search's metric; None where it was NaN or infinite."""
    elapsed_s: float
    """That the trial has run until then, all its attempts together."""


class Trial(Value):
    """One sample of the space and how it fared."""

    number: Annotated[int, Field(ge=1)]
    """In the order in which the samples were drawn."""
    id: str
    """Name of its folder, `trials/<id>` below the search's resume state."""
    params: Mapping[str, JsonValue]
    """What was sampled, by dotted path in the template's params."""
    state: TrialState
    curve: tuple[Point, ...]
    """In the order of epochs, each once."""
    value: float | None
    """What the trial came to: its last value of the metric, None where it reported none."""
    num_samples: int | None
    """That `value` was measured on; None where the trial did not finish."""
    duration_s: float
    gpu_hours: float
    """Of all its workers together."""
    core_hours: float
    error: str | None
    """Why it failed, on one line."""

    @property
    def epoch(self) -> int:
        """How far it came; 0 before the first report."""
        return self.curve[-1].epoch if self.curve else 0


class Trials(Value):
    """All trials of a search, by number."""

    version: Literal[1] = 1
    metric: str
    mode: Literal["max", "min"]
    trials: tuple[Trial, ...]

    def best(self) -> Trial | None:
        """The best of the finished trials; where none finished, of those that came farthest. The
        earliest of equals.

        A trial that was stopped early lost against others at its epoch, so it is not a rival of a
        finished one.
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
