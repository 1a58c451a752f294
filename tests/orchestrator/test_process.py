"""Counting the requests to end a run, and the time that it then has."""

from __future__ import annotations

import os
import signal

import pytest

from orchestrator.errors import JobError
from orchestrator.process import Signals, counted_signals, number_in, stop_grace_s


def test_signals_close_together_count_once() -> None:
    signals = Signals()
    for now_s in (10.0, 10.1, 10.5, 12.0):
        signals.note(now_s)
    assert signals.count == 2


def test_signals_are_counted_only_within_the_block() -> None:
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with counted_signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.count == 1
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    ("environment", "grace_s"),
    [
        ({}, 60),
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}, 2),
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "RAY_JOB_STOP_WAIT_TIME_S": "120"}, 119),
        ({"RAY_JOB_STOP_WAIT_TIME_S": "0"}, 0),
        ({"RAY_JOB_STOP_WAIT_TIME_S": "soon"}, 60),
    ],
)
def test_run_waits_a_second_less_than_ray(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], grace_s: float
) -> None:
    for name in ("RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_JOB_STOP_WAIT_TIME_S"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert stop_grace_s() == grace_s


def test_numbers_in_the_environment_must_be_above_zero() -> None:
    assert number_in({}, "POLL_S", "seconds", 10) == 10
    assert number_in({"POLL_S": "0.5"}, "POLL_S", "seconds", 10) == 0.5
    assert number_in({"LIMIT": "0"}, "LIMIT", "MiB", 10, may_be_0=True) == 0
    for text in ("0", "-1", "soon", "nan", "inf"):
        with pytest.raises(JobError, match=f"POLL_S is '{text}', not a number of seconds above 0"):
            number_in({"POLL_S": text}, "POLL_S", "seconds", 10)
