"""Ctrl-C and SIGTERM as a number to look at, so that a loop ends where it may."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Signals:
    """How often the process was asked to end."""

    count: int = 0


@contextmanager
def counted_signals() -> Iterator[Signals]:
    """Count Ctrl-C and SIGTERM for the length of the block. Enter it after ray.init, which has handlers of its own."""
    signals = Signals()

    def count(signum: int, frame: FrameType | None) -> None:
        signals.count += 1

    before = {signum: signal.signal(signum, count) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
