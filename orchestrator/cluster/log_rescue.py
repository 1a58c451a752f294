"""The process that waits next to a worker, and writes the rest of its log if the worker is killed
or could not write it.

It imports the store only then, so that it costs nothing during the stage.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from orchestrator.process import Process
from orchestrator.streams import exit_code_of

CHECK_INTERVAL_S = 1.0
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""The waits between the attempts to reach the store."""


@dataclass(frozen=True)
class Rest:
    """Where to resume the log of a worker that is gone."""

    store_uri: str
    folder: str
    limit_bytes: int
    fd: int
    copy_fd: int
    stored: int = 0
    copied: int = 0
    num_parts: int = 0
    secrets: tuple[str, ...] = ()

    def at(self, stored: int, copied: int, num_parts: int, secrets: Iterable[str]) -> Self:
        return replace(
            self,
            stored=stored,
            copied=copied,
            num_parts=num_parts,
            secrets=tuple(sorted(secrets)),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def await_end(worker: Process) -> Rest | None:
    """Read reports from stdin until the worker is done or gone. Returns what is left to write."""
    newest: bytes | None = None
    unfinished = b""
    while True:
        # A process that the worker forked may hold the pipe open, so its end is not enough.
        is_alive = not worker.has_ended()
        if not select.select([0], [], [], CHECK_INTERVAL_S if is_alive else 0)[0]:
            if is_alive:
                continue
            return _parsed(newest)
        read = os.read(0, 2**16)
        *lines, unfinished = (unfinished + read).split(b"\n")
        if b"done" in lines:
            return None
        newest = lines[-1] if lines else newest
        if not read:
            return _parsed(newest)


def _parsed(line: bytes | None) -> Rest | None:
    if line is None:
        return None
    values: Mapping[str, Any] = json.loads(line)
    return Rest(**{**values, "secrets": tuple(values["secrets"])})


def write_rest(rest: Rest) -> None:
    """Write what the worker printed after its last flush."""
    # Not for a worker that has written all by itself
    from orchestrator.redaction import Redactor  # noqa: PLC0415
    from orchestrator.store import open_store  # noqa: PLC0415
    from orchestrator.store.log_tail import LogTail  # noqa: PLC0415
    from orchestrator.store.stage_logs import LogSettings, LogWriter  # noqa: PLC0415

    writer = LogWriter(
        open_store(rest.store_uri), rest.folder, rest.limit_bytes, num_parts=rest.num_parts
    )
    tail = LogTail(
        rest.fd,
        rest.copy_fd,
        writer,
        LogSettings(),
        lambda: Redactor(rest.secrets),
        stored=rest.stored,
        copied=rest.copied,
    )
    tail.pump(is_end=True)
    for pause_s in PAUSES_S:
        if tail.is_complete:
            return
        time.sleep(pause_s)
        tail.pump(is_end=True)


def main() -> int:
    machine, pid, began = sys.argv[1:]
    left = await_end(Process(machine, int(pid), began))
    if left is not None:
        write_rest(left)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
