"""When a stage has a warning."""

from __future__ import annotations

import pytest

from orchestrator.runs.record import LostAttemptRecord, ProgressMark, StageRecord
from orchestrator.runs.warnings import find_warnings
from orchestrator.schedule import State

BEGAN_S, NEWEST_S = 1000.0, 1400.0
TRAINING = StageRecord(
    kind="count",
    key="a" * 64,
    state=State.RUNNING,
    attempt=1,
    first=ProgressMark(done=1, time_s=BEGAN_S),
    newest=ProgressMark(done=21, time_s=NEWEST_S),
    total=100,
    num_marks=20,
)
"""It usually reports progress every 20 s."""


def _texts(stage: StageRecord, *, silent_s: float = 0, is_running: bool = True) -> list[str]:
    found = find_warnings(stage, is_running=is_running, now_s=NEWEST_S + silent_s)
    return [warning.text for warning in found]


def test_stage_stalls_after_five_usual_intervals() -> None:
    assert _texts(TRAINING, silent_s=100) == []
    assert _texts(TRAINING, silent_s=121) == ["stalled: no progress for 2 min, usually every 20 s"]


def test_fast_stage_stalls_only_after_a_minute() -> None:
    fast = TRAINING.model_copy(update={"num_marks": 4000})
    assert _texts(fast, silent_s=60) == []
    assert _texts(fast, silent_s=61) == ["stalled: no progress for 1 min, usually every second"]


@pytest.mark.parametrize(
    "changes",
    [
        {"num_marks": 0},
        {"first": None, "newest": None},
        {"newest": ProgressMark(done=100, time_s=NEWEST_S)},
    ],
)
def test_stage_without_a_pace_or_with_all_work_done_does_not_stall(
    changes: dict[str, object],
) -> None:
    assert _texts(TRAINING.model_copy(update=changes), silent_s=1e6) == []


def test_ended_stage_does_not_stall_or_wait_for_data() -> None:
    stage = TRAINING.model_copy(update={"metrics": {"data_wait": 90.0}})
    assert _texts(stage, silent_s=1e6, is_running=False) == []


@pytest.mark.parametrize(
    ("data_wait", "texts"), [(20.0, []), (20.6, ["waits for data 21 % of the time"])]
)
def test_stage_that_waits_for_its_data_has_a_warning(data_wait: float, texts: list[str]) -> None:
    stage = TRAINING.model_copy(update={"metrics": {"data_wait": data_wait}})
    assert _texts(stage) == texts


def test_lost_attempts_are_counted() -> None:
    lost = LostAttemptRecord(attempt=1, why="killed")
    once = TRAINING.model_copy(update={"lost_attempts": (lost,)})
    twice = TRAINING.model_copy(update={"lost_attempts": (lost, lost)})
    assert _texts(once, is_running=False) == ["1 attempt was lost"]
    assert _texts(twice) == ["2 attempts were lost"]
