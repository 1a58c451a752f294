"""Watch which machines the cluster has, in a thread: Ray's head answers late if it is busy, and
never if it is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import ray

from orchestrator.capacity import Machine

LOOK_S = 1.0
LOOKS_PER_REPORT = 10


@dataclass
class FleetWatch:
    """Knows the machines of the cluster within the `with` block, about a second old."""

    find_machines: Callable[[], tuple[Machine, ...]]
    report: Callable[[], None]
    """Called about every ten seconds, so that other runs know that this one exists."""
    _found: tuple[Machine, ...] = ()
    _is_over: threading.Event = field(default_factory=threading.Event)

    def machines(self) -> tuple[Machine, ...]:
        return self._found

    def __enter__(self) -> Self:
        self._found = self.find_machines()
        threading.Thread(target=self._keep_looking, name="fleet", daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        # The thread is not joined: the head may be lost.
        self._is_over.set()

    def _keep_looking(self) -> None:
        looks = 0
        while not self._is_over.wait(LOOK_S):
            try:
                self._found = self.find_machines()
            except ray.exceptions.RayError:  # the loop learns of a lost cluster by itself
                continue
            looks += 1
            if looks % LOOKS_PER_REPORT == 0:
                self.report()
