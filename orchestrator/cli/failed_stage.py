"""What `run` prints about a failed stage: its error, the last lines of the worker, and the command
that shows its whole log."""

from __future__ import annotations

import shlex
import time
from argparse import Namespace
from collections.abc import Callable, Iterator

from orchestrator.cli.logs import Wanted, chosen, harmless
from orchestrator.errors import FailedWorker, JobError, OrchestratorError, StoreError
from orchestrator.store import Store
from orchestrator.store.stage_logs import LogName, last_lines, log_size

NUM_LINES = 20
SETTLED_S, MOST_REST_S = 3, 10
"""The process that writes the rest of a lost worker's log needs a few seconds to start."""


def describe_failure(
    arguments: Namespace, store: Store, run_id: str, stage: str, error: OrchestratorError
) -> str:
    """Return the error of a stage and, if a worker of it has a log, its end without the error
    itself."""
    lines = [f"stages.{stage}: {error}"]
    try:
        name = _failed_log(store, run_id, stage, error.failed_worker)
        if name is not None:
            folder = name.folder(run_id, stage)
            if error.failed_worker is not None and error.failed_worker.is_lost:
                await_rest(store, folder)
            lines += _end_of(store, folder, error, name)
            command = _command(arguments, run_id, stage, name)
            lines.append(f"the whole log: {shlex.join(command)}")
    except StoreError as err:  # the error of the stage is the news
        lines.append(f"the log of its worker cannot be read: {err}")
    return "\n".join(lines)


def _failed_log(
    store: Store, run_id: str, stage: str, worker: FailedWorker | None
) -> LogName | None:
    rank = (None, None) if worker is None else (worker.attempt, worker.rank)
    try:
        return chosen(store, run_id, stage, Wanted(None, *rank))
    except JobError:  # the worker was lost before it could write
        return chosen(store, run_id, stage, Wanted(None, None, None))


def _end_of(store: Store, folder: str, error: OrchestratorError, name: LogName) -> Iterator[str]:
    """Yield a heading and the last lines, unless the error has already said them."""
    said = {line.strip() for line in str(error).splitlines()}
    lines = last_lines(store, folder, NUM_LINES + len(str(error).splitlines()))
    while lines and lines[-1].strip() in {"", *said}:
        lines.pop()
    if not lines:
        return
    trial = f"trial {int(name.trial)}, " if name.trial is not None else ""
    yield f"the last lines of {trial}attempt {name.attempt}, rank {name.rank}:"
    for line in lines[-NUM_LINES:]:
        yield f"    {harmless(line)}"


def await_rest(
    store: Store,
    folder: str,
    *,
    wait: Callable[[float], None] = time.sleep,
    settled_s: int = SETTLED_S,
    most_s: int = MOST_REST_S,
) -> None:
    """Wait until a log has not grown for `settled_s`, at most `most_s`. Raises StoreError."""
    size, unchanged_s = (0, 0), 0
    for _ in range(most_s):
        before, size = size, log_size(store, folder)
        unchanged_s = unchanged_s + 1 if size == before else 0
        if unchanged_s >= settled_s:
            return
        wait(1.0)


def _command(arguments: Namespace, run_id: str, stage: str, name: LogName) -> list[str]:
    trial = ["--trial", str(int(name.trial))] if name.trial is not None else []
    store = ["--store", arguments.store] if arguments.store is not None else []
    overrides = [word for override in arguments.overrides for word in ("--set", override)]
    place = ["--attempt", str(name.attempt), "--rank", str(name.rank), "--run", run_id]
    job = str(arguments.job)
    return ["orchestrator", "logs", job, stage, *trial, *place, *store, *overrides]
