"""A worker's flag is set in the background, whatever the one who is asked does."""

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


def test_the_flag_follows_the_answer_and_stays() -> None:
    is_asked, answers = threading.Event(), []

    def asks() -> bool:
        answers.append(is_asked.is_set())
        return answers[-1]

    with StopWatch(asks, every_s=0.01) as watch:
        _await(lambda: len(answers) >= 3)
        assert not watch.should_stop()
        is_asked.set()
        _await(watch.should_stop)
        time.sleep(0.1)  # for further questions, if there were any
    assert answers.count(True) == 1


def test_nobody_waits_for_an_answer_that_does_not_come() -> None:
    never, was_waited_for = threading.Event(), threading.Event()

    def asks() -> bool:
        never.wait(600)
        was_waited_for.set()
        return True

    with StopWatch(asks, every_s=0.01) as watch:
        assert not watch.should_stop()
    assert not was_waited_for.is_set()
    never.set()
