"""The threads of the stages of a run: each waits for its stage to end."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.artifact import Manifest
from orchestrator.errors import OrchestratorError, StageError
from orchestrator.schedule import Start


class Ended(NamedTuple):
    """A stage that has ended, with its manifest or its error."""

    start: Start
    result: Manifest | OrchestratorError


@dataclass
class StageThreads:
    """Runs stages, each in a thread."""

    running: dict[str, Start] = field(default_factory=dict)
    """By name, the stages whose end was not returned yet."""
    _ended: queue.Queue[Ended] = field(default_factory=queue.Queue)

    def start(self, start: Start, run: Callable[[], Manifest]) -> None:
        """Start `run`, which returns the stage's manifest or raises its error."""
        self.running[start.stage.name] = start
        # A daemon thread: an interrupted run must not wait for a training to end.
        threading.Thread(target=self._run, args=(start, run), daemon=True).start()

    def await_end(self, *, timeout_s: float) -> Ended | None:
        """Wait for a stage to end. Returns None if none does in time."""
        try:
            return self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _run(self, start: Start, run: Callable[[], Manifest]) -> None:
        try:
            self._ended.put(Ended(start, run()))
        except OrchestratorError as err:
            self._ended.put(Ended(start, err))
        except Exception as err:  # noqa: BLE001  the thread's edge: the loop must learn of any end
            reason = f"{type(err).__name__}: {err}\n{traceback.format_exc()}"
            self._ended.put(Ended(start, StageError(reason)))
