"""How often a run was asked to end."""

from __future__ import annotations

import os
import signal

from orchestrator.signals import Signals, counted_signals


def test_ctrl_c_that_comes_twice_at_once_is_one_wish() -> None:
    signals = Signals()
    for now_s in (10.0, 10.1, 10.5, 12.0):
        signals.note(now_s)
    assert signals.count == 2


def test_signals_are_counted_within_the_block_alone() -> None:
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with counted_signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.count == 1
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before
