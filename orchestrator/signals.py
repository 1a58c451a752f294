"""Ctrl-C and SIGTERM as a number to look at, so that a loop ends where it may."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

ONE_WISH_S = 0.5
"""Signals so close together are one: a terminal sends Ctrl-C to all of its processes, and make or a shell passes its
own one on."""


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
    """Count Ctrl-C and SIGTERM for the length of the block. Enter it after ray.init, which has handlers of its own."""
    signals = Signals()

    def count(signum: int, frame: FrameType | None) -> None:
        signals.note(time.monotonic())

    before = {signum: signal.signal(signum, count) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
