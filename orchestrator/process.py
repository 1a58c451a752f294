"""The process that `run` lives in: its signals as a count, and how long it may take to end. Imports
no ray."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

ONE_WISH_S = 0.5
"""Signals so close together are one: a terminal sends Ctrl-C to all of its processes, and make or a
shell passes its own one on."""


@dataclass
class Signals:
    """How often the process was asked to end."""

    count: int = 0
    newest_s: float = float("-inf")

    def note(self, now_s: float) -> None:
        """A signal came at `now_s`, on a clock that only goes forward."""
        if now_s - self.newest_s > ONE_WISH_S:
            self.count += 1
        self.newest_s = now_s


@contextmanager
def counted_signals() -> Iterator[Signals]:
    """Count Ctrl-C and SIGTERM for the length of the block. Enter it after ray.init, which has
    handlers of its own."""
    signals = Signals()

    def count(signum: int, frame: FrameType | None) -> None:
        signals.note(time.monotonic())

    before = {signum: signal.signal(signum, count) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


GRACE_S = 60.0
"""Outside of a Ray job: the time for a checkpoint of a large model to reach a distant store."""
RAY_STOP_WAIT_S = 3.0
"""Ray's own RAY_JOB_STOP_WAIT_TIME_S."""
FINAL_EVENTS_TIMEOUT_S = 1.0
"""What is left for the record and the exit."""


def is_submitted() -> bool:
    """True under `ray job submit`: Ray sets this variable for a job's command, and for nothing
    else."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def stop_grace_s() -> float:
    """Seconds that an interrupted run may wait for its stages: `ray job stop` kills a job's command
    after a while."""
    stated = os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "")
    if stated.isdecimal():
        return max(0.0, float(stated) - FINAL_EVENTS_TIMEOUT_S)
    return RAY_STOP_WAIT_S - FINAL_EVENTS_TIMEOUT_S if is_submitted() else GRACE_S
