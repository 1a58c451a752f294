"""The logs of workers and of the driver in the store: their names, writing and reading.

    runs/<run>/logs/<stage>/[<trial>/]<attempt>/rank<k>/<000001>.log
    runs/<run>/logs/_driver/<000001>.log

S3 has no append, so a log consists of numbered parts. A small newest part is written again with
more text. Numbers that are missing are parts that were deleted because the log had become too long.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.errors import StoreError
from orchestrator.process import number_in
from orchestrator.store.protocol import Store

DRIVER = "_driver"
"""The folder of the driver's log. Names of stages begin with a letter."""
SMALL_PART_BYTES = 2**16
"""A newest part below this size is continued, so that a quiet worker does not write thousands of
tiny objects."""

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
"""The format of times in log records. It has the date, because a run may take days."""

LEAST_LOG_BYTES = 2**18
"""Each log may have this size, even if a search has so many trials that the limit is exceeded."""
LEAST_PART_MB = 2**-6
"""Smaller parts would cost a request for each line."""

FLUSH_VARIABLE = "ORCHESTRATOR_LOG_FLUSH_S"
PART_VARIABLE = "ORCHESTRATOR_LOG_PART_MB"
LIMIT_VARIABLE = "ORCHESTRATOR_LOG_LIMIT_MB"

TRIAL_DIGITS = 5
"""The id of a trial has at least so many digits, the number of an attempt fewer."""


@dataclass(frozen=True)
class LogSettings:
    """How often workers write their logs to the store, and how much of them is kept."""

    flush_s: float = 10.0
    """Output is in the store at most this long after it was written."""
    part_mb: float = 1.0
    """The size from which a part is written before `flush_s` is over."""
    limit_mb: float = 64.0
    """The size of the logs of one attempt at a stage, over all its workers and trials. 0: none are
    kept."""
    num_trials: int = 1
    """The number of trials that share the limit."""
    secret_names: frozenset[str] = frozenset()
    """Environment variables whose values are secrets, although their names do not show it."""

    @property
    def are_kept(self) -> bool:
        return self.limit_mb > 0

    @property
    def part_bytes(self) -> int:
        return int(self.part_mb * 2**20)

    def limit_bytes(self, num_logs: int) -> int:
        """The size limit of one of `num_logs` logs of the stage, or of a trial."""
        return max(LEAST_LOG_BYTES, int(self.limit_mb * 2**20) // (num_logs * self.num_trials))


DEFAULT_LOGS = LogSettings()


def log_settings(environ: Mapping[str, str]) -> LogSettings:
    """Return the settings in `environ`. Raises JobError for a value that is not a number or is
    too small."""
    default = DEFAULT_LOGS
    return LogSettings(
        flush_s=number_in(environ, FLUSH_VARIABLE, "seconds", default.flush_s),
        part_mb=max(LEAST_PART_MB, number_in(environ, PART_VARIABLE, "MiB", default.part_mb)),
        limit_mb=number_in(environ, LIMIT_VARIABLE, "MiB", default.limit_mb, may_be_0=True),
    )


@dataclass(frozen=True, order=True)
class LogName:
    """The worker of a stage whose output a log has. Newer attempts and later trials are greater."""

    trial: str | None
    """The id of the trial if the stage is a search."""
    attempt: int
    """Counted from 1."""
    rank: int

    def folder(self, run_id: str, stage: str) -> str:
        return f"{_trial_folder(run_id, stage, self.trial)}/{self.attempt}/rank{self.rank}"


def _trial_folder(run_id: str, stage: str, trial: str | None) -> str:
    folder = stage_folder(run_id, stage)
    return f"{folder}/{trial}" if trial is not None else folder


def stage_folder(run_id: str, stage: str) -> str:
    return f"runs/{run_id}/logs/{stage}"


def driver_folder(run_id: str) -> str:
    return stage_folder(run_id, DRIVER)


def list_logs(store: Store, run_id: str, stage: str) -> tuple[LogName, ...]:
    """Return the logs of a stage, ordered by trial, attempt and rank. Raises StoreError.

    It takes a request for each attempt at each trial. The functions below take one.
    """
    return tuple(
        LogName(trial, attempt, rank)
        for trial in list_trials(store, run_id, stage)
        for attempt in list_attempts(store, run_id, stage, trial)
        for rank in list_ranks(store, run_id, stage, trial, attempt)
    )


def list_trials(store: Store, run_id: str, stage: str) -> tuple[str | None, ...]:
    """Return the ids of the trials that have logs, sorted; None means the stage itself."""
    names = _numbers_below(store, stage_folder(run_id, stage))
    trials = sorted(name for name in names if len(name) >= TRIAL_DIGITS)
    return (*([None] if len(trials) < len(names) else []), *trials)


def list_attempts(store: Store, run_id: str, stage: str, trial: str | None) -> tuple[int, ...]:
    """Return the numbers of the attempts that have logs, sorted."""
    folder = _trial_folder(run_id, stage, trial)
    names = _numbers_below(store, folder)
    return tuple(sorted(int(name) for name in names if len(name) < TRIAL_DIGITS))


def list_ranks(
    store: Store, run_id: str, stage: str, trial: str | None, attempt: int
) -> tuple[int, ...]:
    """Return the ranks of the workers of an attempt that have logs, sorted."""
    folder = f"{_trial_folder(run_id, stage, trial)}/{attempt}"
    ranks = (re.fullmatch(r"rank(\d+)", name) for name in store.folders(folder))
    return tuple(sorted(int(rank[1]) for rank in ranks if rank is not None))


def _numbers_below(store: Store, folder: str) -> list[str]:
    return [name for name in store.folders(folder) if name.isdecimal()]


@dataclass
class LogWriter:
    """Writes a log to `folder` as parts, of which the first and the last `limit_bytes` / 2 are
    kept."""

    store: Store
    folder: str
    limit_bytes: int
    num_parts: int = 0
    """The number of the newest part."""
    _newest: bytes = b""
    """The content of the newest part if more may be added to it."""
    _sizes: dict[int, int] = field(default_factory=dict)
    _head: int | None = None
    """The number of the last part of the head, once the log has exceeded its limit."""

    def write(self, text: bytes) -> None:
        """Add `text`, which ends with a whole line if possible.

        Raises StoreError. Either all of `text` is then in the store or none of it, so the caller
        may try again.
        """
        is_continued = 0 < len(self._newest) < min(SMALL_PART_BYTES, self.limit_bytes // 4)
        number = self.num_parts if is_continued else self.num_parts + 1
        content = self._newest + text if is_continued else text
        self.store.write(part_name(self.folder, number), content)
        self.num_parts, self._newest, self._sizes[number] = number, content, len(content)
        self._delete_middle()

    def _delete_middle(self) -> None:
        """Delete the oldest parts after the head until the log fits its limit."""
        if self._head is None and sum(self._sizes.values()) > self.limit_bytes:
            self._head = self._last_of_head()
        while self._head is not None and sum(self._sizes.values()) > self.limit_bytes:
            oldest = next((n for n in self._sizes if self._head < n < self.num_parts), None)
            if oldest is None:
                return
            try:
                self.store.delete(part_name(self.folder, oldest))
            except StoreError:  # the text itself is written; the next part deletes this one, too
                return
            del self._sizes[oldest]

    def _last_of_head(self) -> int:
        """The number of the last part that fits the first half of the limit; at least part 1."""
        size = 0
        for number, part_bytes in self._sizes.items():
            size += part_bytes
            if size > self.limit_bytes / 2:
                return max(1, number - 1)
        return self.num_parts


def part_name(folder: str, number: int) -> str:
    return f"{folder}/{number:06d}.log"


class LogReader:
    """Reads a log from its beginning. Each `read` returns the text that was added since the last
    one."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._folder = folder
        self._number = 0
        """The newest part that was read; `_num_bytes` of it are known."""
        self._num_bytes = 0

    def read(self) -> Iterator[str]:
        """Yield the new text, part by part, and a line for each gap. Raises StoreError."""
        for number in _part_numbers(self._store, self._folder):
            if number < self._number:
                continue
            content = self._store.read(part_name(self._folder, number))
            if content is None:  # deleted since it was listed
                continue
            if number == self._number:
                new, self._num_bytes = content[self._num_bytes :], len(content)
            else:
                if number > self._number + 1:
                    yield gap(number - self._number - 1)
                new, self._number, self._num_bytes = content, number, len(content)
            if new:
                yield new.decode(errors="replace")


def _part_numbers(store: Store, folder: str) -> list[int]:
    """The numbers of the parts that a log has, in order."""
    names = (name.rpartition("/")[2] for name in store.names(folder))
    return sorted(int(name[:-4]) for name in names if re.fullmatch(r"\d+\.log", name))


def gap(num_parts: int) -> str:
    """The line that a reader shows in place of deleted parts."""
    parts = "1 part" if num_parts == 1 else f"{num_parts} parts"
    return (
        f"\n[orchestrator: {parts} of this log were deleted here, because the stage printed more "
        f"than {LIMIT_VARIABLE} allows]\n"
    )


def last_lines(store: Store, folder: str, num_lines: int) -> list[str]:
    """Return the last lines of a log, read from its newest parts. Raises StoreError."""
    lines: list[str] = []
    text = ""
    for number in reversed(_part_numbers(store, folder)):
        text = (store.read(part_name(folder, number)) or b"").decode(errors="replace") + text
        lines = text.splitlines()
        if len(lines) > num_lines:
            break
    return lines[-num_lines:]


def log_size(store: Store, folder: str) -> tuple[int, int]:
    """Return a value that is greater for a log that has grown. Raises StoreError."""
    number = max(_part_numbers(store, folder), default=0)
    newest = store.read(part_name(folder, number)) if number else None
    return number, len(newest or b"")


def follow(
    reader: LogReader, *, is_over: Callable[[], bool], wait: Callable[[], None]
) -> Iterator[str]:
    """Yield new text until the log is over, and then its rest."""
    while True:
        ends = is_over()  # before reading, so that the last text is not missed
        yield from reader.read()
        if ends:
            return
        wait()
