"""The verb logs: what a worker or the driver of a run printed, from the store only."""

from __future__ import annotations

import re
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from orchestrator.cli.job import load
from orchestrator.errors import JobError
from orchestrator.runs.last_run import load_last_run
from orchestrator.runs.record import RunRecord, RunState, StageRecord, load_record, record_name
from orchestrator.runs.status import LOST_AFTER_S
from orchestrator.schedule import State
from orchestrator.spec import Job, cells_named
from orchestrator.spec.faults import suggestion
from orchestrator.store import Store, open_store
from orchestrator.store.publish import load_manifest
from orchestrator.store.stage_logs import (
    LogName,
    LogReader,
    driver_folder,
    follow,
    list_attempts,
    list_ranks,
    list_trials,
)
from orchestrator.store.trial_logs import trial_id
from orchestrator.streams import Output

FOLLOW_INTERVAL_S = 2.0

_Value = TypeVar("_Value", str, int)

_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Wanted(NamedTuple):
    """The options that choose a log of a stage; None means the default."""

    trial: str | None
    attempt: int | None
    rank: int | None


def logs(arguments: Namespace, stdout: Output) -> int:
    job = load(arguments)
    store = open_store(job.store)
    record = load_run(job, store, arguments.run)
    if arguments.stage is None:
        texts = _driver_texts(store, record.run_id, follows=arguments.follow)
    else:
        trial = trial_id(arguments.trial) if arguments.trial is not None else None
        wanted = Wanted(trial, arguments.attempt, arguments.rank)
        texts = _stage_texts(store, record, arguments.stage, wanted, follows=arguments.follow)
    _show(texts, stdout)
    return 0


def _show(texts: Iterable[str], stdout: Output) -> None:
    is_terminal = stdout.isatty()
    for text in texts:
        stdout.write(harmless(text) if is_terminal else text)
        stdout.flush()
        if not stdout.has_reader:
            return


def harmless(text: str) -> str:
    """Return text that cannot control a terminal. A progress bar that was drawn again and again
    becomes lines."""
    lines = _COLOURS.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", lines)


def load_run(job: Job, store: Store, run_id: str | None) -> RunRecord:
    """Return the record of a run, by default of the job's last one. Raises JobError."""
    last = load_last_run(store, job.name)
    if last is None:
        raise JobError(f"{job.name}: has not run yet in store {store.uri}; check --store")
    if run_id is not None and store.read(record_name(run_id)) is None:
        raise JobError(f"--run {run_id}: unknown in store {store.uri}; the last is {last.run_id}")
    return load_record(store, run_id or last.run_id)


def _driver_texts(store: Store, run_id: str, *, follows: bool) -> Iterator[str]:
    reader = LogReader(store, driver_folder(run_id))
    if not follows:
        return _not_empty(reader.read(), f"run {run_id}: its driver has no log in the store")
    return follow(reader, is_over=lambda: _is_over(load_record(store, run_id)), wait=_wait)


def _not_empty(texts: Iterator[str], fault: str) -> Iterator[str]:
    """Yield the texts. Raises JobError if there are none."""
    first = next(texts, None)
    if first is None:
        raise JobError(fault)
    yield first
    yield from texts


def _stage_texts(
    store: Store, record: RunRecord, stage: str, wanted: Wanted, *, follows: bool
) -> Iterator[str]:
    run_id = record.run_id
    row = _stage_of(record, stage)

    def is_over() -> bool:
        now = load_record(store, run_id)
        return _is_over(now) or now.stages[stage].state.is_final

    if not follows or is_over():
        name = chosen(store, run_id, stage, wanted)
        if name is None:
            raise JobError(f"stages.{stage}: {_why_no_log(store, run_id, row)}")
        yield from LogReader(store, name.folder(run_id, stage)).read()
        return
    yield from _follow_stage(store, run_id, stage, wanted, is_over)


def _follow_stage(
    store: Store, run_id: str, stage: str, wanted: Wanted, is_over: Callable[[], bool]
) -> Iterator[str]:
    """Yield the text of the newest attempt until the stage has ended, from one attempt to the
    next."""
    name: LogName | None = None
    reader: LogReader | None = None
    while True:
        ends = is_over()
        newest = _present(store, run_id, stage, wanted, ends=ends)
        if reader is not None:
            yield from reader.read()
        if newest is not None and newest != name:
            if name is not None:
                yield f"[orchestrator: attempt {newest.attempt} of {stage}]\n"
            name, reader = newest, LogReader(store, newest.folder(run_id, stage))
            yield from reader.read()
        if ends:
            return
        _wait()


def _present(
    store: Store, run_id: str, stage: str, wanted: Wanted, *, ends: bool
) -> LogName | None:
    """Return the wanted log, or None while it may still come. The first worker that writes may have
    any rank, so the default is rank 0 until the stage ends."""
    if ends:
        return chosen(store, run_id, stage, wanted)
    try:
        return chosen(store, run_id, stage, wanted._replace(rank=wanted.rank or 0))
    except JobError:
        return None


def _wait() -> None:
    time.sleep(FOLLOW_INTERVAL_S)


def _is_over(record: RunRecord) -> bool:
    """Whether the run has ended, or its driver is silent."""
    return record.state is not RunState.RUNNING or time.time() - record.heard_at_s > LOST_AFTER_S


def _stage_of(record: RunRecord, stage: str) -> StageRecord:
    if stage in record.stages:
        return record.stages[stage]
    cells = cells_named(stage, record.stages)
    if cells:
        raise JobError(f"{stage!r} is a matrix; name one of its cells: {', '.join(cells)}")
    hint = suggestion(stage, record.stages)
    raise JobError(f"run {record.run_id} has no stage {stage!r}{hint}")


def _why_no_log(store: Store, run_id: str, row: StageRecord) -> str:
    if row.state is State.REUSED:
        manifest = load_manifest(store, row.key)
        earlier = manifest.provenance.get("run_id") if manifest is not None else None
        return f"was reused in run {run_id}; its log is in an earlier run: --run {earlier}"
    if row.attempt is None:
        return f"is {row.state} in run {run_id}; no worker has started"
    if row.state.is_final:
        return f"has no log in run {run_id}; was ORCHESTRATOR_LOG_LIMIT_MB set to 0?"
    return f"has no log yet in run {run_id}; the first lines follow in a few seconds"


def chosen(store: Store, run_id: str, stage: str, wanted: Wanted) -> LogName | None:
    """Return the wanted log: by default the last trial, the newest attempt and the lowest rank.
    None: the stage has no logs.

    Raises JobError that lists what exists.
    """
    trials = [trial or "" for trial in list_trials(store, run_id, stage)]
    if not trials:
        return None
    trial = _one_of(trials, stage, "trial", wanted.trial, default=-1) or None
    attempts = list_attempts(store, run_id, stage, trial)
    if not attempts:  # its folder was created just now
        return None
    attempt = _one_of(attempts, stage, "attempt", wanted.attempt, default=-1)
    ranks = list_ranks(store, run_id, stage, trial, attempt)
    if not ranks:
        return None
    return LogName(trial, attempt, _one_of(ranks, stage, "rank", wanted.rank, default=0))


def _one_of(
    values: Sequence[_Value], stage: str, option: str, value: _Value | None, *, default: int
) -> _Value:
    """Return the wanted value of an option, which exists. `default` is an index of the values."""
    if value is None:
        return values[default]
    if value not in values:
        known = ", ".join(str(one) for one in values if one != "")
        raise JobError(
            f"--{option} {value}: stage {stage} has no such log in the store; "
            + (f"it has {option} {known}" if known else f"it has no {option}s")
        )
    return value
