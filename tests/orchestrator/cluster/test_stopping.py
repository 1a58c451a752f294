"""A worker's stop flag is set in the background, even if the call that it depends on blocks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from orchestrator.cluster.stopping import StopWatch


def _await(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_stop_flag_follows_the_answer_and_stays_set() -> None:
    is_asked, answers = threading.Event(), []

    def asks() -> bool:
        answers.append(is_asked.is_set())
        return answers[-1]

    with StopWatch(asks, every_s=0.01) as watch:
        _await(lambda: len(answers) >= 3)
        assert not watch.should_stop()
        is_asked.set()
        _await(watch.should_stop)
        time.sleep(0.1)  # for further calls, if there were any
    assert answers.count(True) == 1


def test_block_ends_without_waiting_for_an_answer() -> None:
    never, was_waited_for = threading.Event(), threading.Event()

    def asks() -> bool:
        never.wait(600)
        was_waited_for.set()
        return True

    with StopWatch(asks, every_s=0.01) as watch:
        assert not watch.should_stop()
    assert not was_waited_for.is_set()
    never.set()


def test_pipeline_that_cannot_stop_is_ended_once() -> None:
    ends: list[bool] = []
    with StopWatch(lambda: True, ends=lambda: ends.append(True), every_s=0.01) as watch:
        _await(watch.should_stop)
        _await(lambda: bool(ends))
    assert ends == [True]
