"""What a user should look at in a stage: it stalls, it waits for its data, or attempts were lost.
Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from orchestrator.numbers import duration
from orchestrator.runs.record import StageRecord

STALLED_INTERVALS = 5
"""A running stage is stalled after this many of its usual intervals between progress events."""
STALLED_AFTER_S = 60.0
"""It is not stalled before this time: a checkpoint or a validation of a small model may take it."""
MOST_DATA_WAIT = 20.0
"""In % of the time. More means that data loading, not the network, sets the pace."""


@dataclass(frozen=True)
class StageWarning:
    """A warning about one stage. `text` changes with time, `name` does not."""

    name: Literal["stalled", "data_wait", "retries"]
    text: str


def find_warnings(
    stage: StageRecord, *, is_running: bool, now_s: float
) -> tuple[StageWarning, ...]:
    """Return the warnings about a stage at `now_s`."""
    return (*(_of_running(stage, now_s) if is_running else ()), *_retries(stage))


def _of_running(stage: StageRecord, now_s: float) -> Iterator[StageWarning]:
    usual_s = usual_interval_s(stage)
    if usual_s is not None and stage.newest is not None and not _is_complete(stage):
        silent_s = now_s - stage.newest.time_s
        if silent_s > max(STALLED_AFTER_S, STALLED_INTERVALS * usual_s):
            usual = duration(usual_s) if usual_s >= 1 else "second"
            text = f"stalled: no progress for {duration(silent_s)}, usually every {usual}"
            yield StageWarning("stalled", text)
    waited = stage.metrics.get("data_wait")
    if waited is not None and waited > MOST_DATA_WAIT:
        yield StageWarning("data_wait", f"waits for data {waited:.0f} % of the time")


def usual_interval_s(stage: StageRecord) -> float | None:
    """The mean time between progress events of this attempt, or None before the second one."""
    if stage.first is None or stage.newest is None or not stage.num_marks:
        return None
    return (stage.newest.time_s - stage.first.time_s) / stage.num_marks


def _is_complete(stage: StageRecord) -> bool:
    """Whether all work is done. Publishing a large model has no progress events."""
    return stage.newest is not None and stage.total is not None and stage.newest.done >= stage.total


def _retries(stage: StageRecord) -> Iterator[StageWarning]:
    if number := len(stage.lost_attempts):
        attempts = "attempt was" if number == 1 else "attempts were"
        yield StageWarning("retries", f"{number} {attempts} lost")
