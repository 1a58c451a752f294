"""What `run` prints about a failed stage: its error, the last lines of the worker, and the command
that shows its whole log."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Iterator

from orchestrator.cli.logs import Wanted, chosen, harmless
from orchestrator.errors import FailedWorker, JobError, OrchestratorError, StoreError
from orchestrator.store import Store
from orchestrator.store.stage_logs import LogName, last_lines, list_logs

NUM_LINES = 20


def describe_failure(
    arguments: Namespace, store: Store, run_id: str, stage: str, error: OrchestratorError
) -> str:
    """Return the error of a stage and, if a worker of it has a log, its end without the error
    itself."""
    lines = [f"stages.{stage}: {error}"]
    try:
        name = _failed_log(store, run_id, stage, error.failed_worker)
        if name is not None:
            lines += _end_of(store, name.folder(run_id, stage), error, name)
            lines.append(f"the whole log: {shlex.join(_command(arguments, stage, name))}")
    except StoreError as err:  # the error of the stage is the news
        lines.append(f"the log of its worker cannot be read: {err}")
    return "\n".join(lines)


def _failed_log(
    store: Store, run_id: str, stage: str, worker: FailedWorker | None
) -> LogName | None:
    found = list_logs(store, run_id, stage)
    if not found:
        return None
    try:
        return chosen(found, Wanted(None, *(worker or (None, None))), stage)
    except JobError:  # the worker was lost before it could write
        return chosen(found, Wanted(None, None, None), stage)


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


def _command(arguments: Namespace, stage: str, name: LogName) -> list[str]:
    trial = ["--trial", str(int(name.trial))] if name.trial is not None else []
    store = ["--store", arguments.store] if arguments.store is not None else []
    overrides = [word for override in arguments.overrides for word in ("--set", override)]
    place = ["--attempt", str(name.attempt), "--rank", str(name.rank)]
    job = str(arguments.job)
    return ["orchestrator", "logs", job, stage, *trial, *place, *store, *overrides]
