"""Check in the background whether a worker should stop, so that training only reads a flag."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

ASK_INTERVAL_S = 1.0


class StopWatch:
    """Calls `asks` every second, within the `with` block, until it returns True, and then `ends` if
    given.

    `asks` may block but must not raise.
    """

    def __init__(
        self,
        asks: Callable[[], bool],
        *,
        ends: Callable[[], None] | None = None,
        every_s: float = ASK_INTERVAL_S,
    ) -> None:
        self._asks = asks
        self._ends = ends
        self._every_s = every_s
        self._is_over = threading.Event()
        self._should_stop = False

    def should_stop(self) -> bool:
        return self._should_stop

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="stop watch", daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        # The thread is not joined: it may still wait for an answer, and a daemon does not block
        # exit.
        self._is_over.set()

    def _watch(self) -> None:
        while not self._should_stop and not self._is_over.is_set():
            self._should_stop = self._asks()
            if self._should_stop and self._ends is not None and not self._is_over.is_set():
                self._ends()
            self._is_over.wait(self._every_s)
