"""A worker's flag is set in the background, whatever the one who is asked does."""

from __future__ import annotations

import threading
import time

from orchestrator.cluster.stopping import StopWatch


def test_the_flag_follows_the_answer_and_stays() -> None:
    is_asked, answers = threading.Event(), []

    def asks() -> bool:
        answers.append(is_asked.is_set())
        return answers[-1]

    with StopWatch(asks, every_s=0.01) as watch:
        time.sleep(0.1)
        assert not watch.should_stop()
        is_asked.set()
        time.sleep(0.1)
        assert watch.should_stop()
    assert answers.count(True) == 1


def test_nobody_waits_for_an_answer_that_does_not_come() -> None:
    never = threading.Event()
    start_s = time.monotonic()
    with StopWatch(lambda: never.wait(30), every_s=0.01) as watch:
        assert not watch.should_stop()
    assert time.monotonic() - start_s < 1
    never.set()
