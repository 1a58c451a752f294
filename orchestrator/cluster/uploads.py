"""Uploads checkpoints to the store while training continues."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.errors import StoppedError

Commit = Callable[[Path, float | None], None]
"""Puts a folder into the store, with its score if it has one."""


@dataclass(frozen=True)
class Cost:
    """What a checkpoint has cost."""

    blocked_s: float = 0.0
    """How long the caller waited for the previous upload."""
    upload_s: float = 0.0
    upload_bytes: int = 0


class Uploads:
    """Commits folders in the background, one at a time and in order, and then deletes them.

    Leaving the `with` block waits for the last one and raises its error, unless the block itself
    raised one. StoppedError is the exception: it promises a checkpoint, so the upload's error
    replaces it.
    """

    def __init__(self, commit: Commit, *, on_cost: Callable[[Cost], None] = lambda _: None) -> None:
        """`on_cost` is called by this thread and by the thread of the uploads."""
        self._commit, self._on_cost = commit, on_cost
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="upload")
        self._pending: Future[None] | None = None

    def hand_over(self, folder: Path, score: float | None = None) -> None:
        """Start to commit `folder`, after waiting for the previous one. Raises the error of the
        previous one."""
        began_s = time.monotonic()
        self.finish()
        self._on_cost(Cost(blocked_s=time.monotonic() - began_s))
        self._pending = self._pool.submit(self._upload, folder, score)

    @property
    def has_failed(self) -> bool:
        """Whether the current upload has failed. The next call raises its error."""
        pending = self._pending
        return pending is not None and pending.done() and pending.exception() is not None

    def finish(self) -> None:
        """Wait for the current upload. Raises its error, once."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _upload(self, folder: Path, score: float | None) -> None:
        num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        began_s = time.monotonic()
        self._commit(folder, score)
        self._on_cost(Cost(upload_s=time.monotonic() - began_s, upload_bytes=num_bytes))
        shutil.rmtree(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        if kind is None or issubclass(kind, StoppedError):
            self.finish()
