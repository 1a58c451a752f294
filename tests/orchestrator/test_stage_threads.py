"""The threads of stages: any end of a stage reaches the loop of the run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NoReturn

from orchestrator.errors import DataError, OrchestratorError, StageError
from orchestrator.schedule import Start
from orchestrator.stage_threads import StageThreads


def _end_of(error: Exception) -> OrchestratorError:
    """The result of a stage that raises `error`."""

    def fail() -> NoReturn:
        raise error

    stage: Any = SimpleNamespace(name="train")
    start, threads = Start(stage, {}, slots=1), StageThreads()
    threads.start(start, fail)
    ended = threads.await_end(timeout_s=60)
    assert ended is not None
    assert ended.start is start
    assert threads.running == {"train": start}
    assert isinstance(ended.result, OrchestratorError)
    return ended.result


def test_an_error_of_a_stage_is_its_end() -> None:
    error = DataError("data: missing")
    assert _end_of(error) is error


def test_an_unexpected_error_is_the_end_of_its_stage() -> None:
    error = _end_of(ZeroDivisionError("a bug"))
    assert isinstance(error, StageError)
    assert str(error).startswith("ZeroDivisionError: a bug\nTraceback (most recent call last):")


def test_no_end_in_time_is_none() -> None:
    assert StageThreads().await_end(timeout_s=0.01) is None
