"""Requests to cancel a run or some of its stages, `runs/<run id>/cancel/`.

Any machine that reaches the store writes them. The run's driver reads them every few seconds.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

from orchestrator.errors import StoreError
from orchestrator.store.protocol import Store

POLL_S = 10.0
"""The interval at which the driver looks for requests."""
POLL_VARIABLE = "ORCHESTRATOR_CANCEL_POLL_S"
"""The environment variable that changes it for a run."""
WHOLE_RUN = "_run"
"""Means all stages in a request. The name of a stage begins with a letter."""


def request_cancel(store: Store, run_id: str, names: Iterable[str], *, now_s: float) -> None:
    """Ask the driver of a run to cancel the stages `names`, or WHOLE_RUN. Raises StoreError."""
    content = json.dumps({"requested_at_s": now_s}).encode()
    for name in names:
        store.write(f"{_folder(run_id)}/{name}.json", content)


def load_requests(store: Store, run_id: str) -> frozenset[str]:
    """Return the names of the stages to cancel, perhaps with WHOLE_RUN. Raises StoreError."""
    prefix = f"{_folder(run_id)}/"
    return frozenset(
        name.removeprefix(prefix).removesuffix(".json") for name in store.names(_folder(run_id))
    )


class RequestWatch:
    """Reads the requests of a run in the background, every `every_s` seconds within the block.

    While the store is unreachable, which the journal reports, `names` keeps its last value.
    """

    def __init__(self, store: Store, run_id: str, *, every_s: float) -> None:
        self._store, self._run_id, self._every_s = store, run_id, every_s
        self._is_over = threading.Event()
        self.names: frozenset[str] = frozenset()

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="cancel requests", daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        # The thread is not joined: the store may take a minute to answer.
        self._is_over.set()

    def _watch(self) -> None:
        while not self._is_over.wait(self._every_s):
            with suppress(StoreError):
                self.names = load_requests(self._store, self._run_id)


def _folder(run_id: str) -> str:
    return f"runs/{run_id}/cancel"
