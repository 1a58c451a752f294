"""The process of `run`: its identity, its signals and its time to stop. Does not import ray."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NamedTuple, Self

from orchestrator.errors import JobError

_START_FIELD = 18
"""The field `starttime` in /proc/<pid>/stat, counted after the state."""

ONE_WISH_S = 0.5
"""Signals within this time count as one: a terminal sends Ctrl-C to all of its processes, and make
or a shell forwards its own."""


@dataclass
class Signals:
    """The number of requests to end the process."""

    count: int = 0
    newest_s: float = float("-inf")

    def note(self, now_s: float) -> None:
        """Count a signal at `now_s`, on a monotonic clock."""
        if now_s - self.newest_s > ONE_WISH_S:
            self.count += 1
        self.newest_s = now_s


@contextmanager
def counted_signals() -> Iterator[Signals]:
    """Count Ctrl-C and SIGTERM within the block. Enter it after ray.init, which sets its own
    handlers."""
    signals = Signals()

    def count(signum: int, frame: FrameType | None) -> None:
        signals.note(time.monotonic())

    before = {signum: signal.signal(signum, count) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class Process(NamedTuple):
    """A process, so that others on the same machine can see whether it has ended."""

    machine: str
    """The boot of the machine and the container: a pid means nothing elsewhere."""
    pid: int
    began: str
    """Its start in clock ticks since the boot: pids are used again."""

    @classmethod
    def current(cls) -> Self:
        return cls(_machine(), os.getpid(), _began(os.getpid()) or "")

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return a process of this machine that is running, or None."""
        began = _began(pid)
        return cls(_machine(), pid, began) if began else None

    def has_ended(self) -> bool:
        """Whether it has surely ended. False for a process of another machine, and for one of
        another user where /proc hides it."""
        if not self.machine or self.machine != _machine():
            return False
        began = _began(self.pid)
        return not _exists(self.pid) if began is None else began != self.began


def _machine() -> str:
    """Identify this boot and container, or return "" where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def _began(pid: int) -> str | None:
    """The start of a process in clock ticks since the boot. Empty if it has ended but its parent
    has not noticed, None if this cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name before it may contain blanks
    return "" if state in "ZX" else fields[_START_FIELD]


GRACE_S = 60.0
"""Outside a Ray job: enough time to upload a large checkpoint to a distant store."""
RAY_STOP_WAIT_S = 3.0
"""Ray's default of RAY_JOB_STOP_WAIT_TIME_S."""
FINAL_EVENTS_TIMEOUT_S = 1.0
"""Time reserved for writing the record and exiting."""


def number_in(
    environ: Mapping[str, str], name: str, unit: str, default: float, *, may_be_0: bool = False
) -> float:
    """Return the positive number in the variable `name`, or `default` if it is not set.

    Raises JobError for anything else.
    """
    stated = environ.get(name, "")
    if not stated:
        return default
    try:
        value = float(stated)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf or (may_be_0 and value == 0)):
        raise JobError(
            f"{name} is {stated!r}, not a number of {unit} {'from' if may_be_0 else 'above'} 0; "
            f"correct or unset it (default {default:g})"
        )
    return value


JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The variable in which Ray describes a submitted job to its command."""


def is_submitted() -> bool:
    """Whether this process was started by `ray job submit`. Ray sets this variable only for a job's
    command."""
    return JOB_CONFIG in os.environ


def stop_grace_s() -> float:
    """Seconds that an interrupted run may wait for its stages. `ray job stop` kills the command
    after a limit."""
    stated = os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "")
    if stated.isdecimal():
        return max(0.0, float(stated) - FINAL_EVENTS_TIMEOUT_S)
    return RAY_STOP_WAIT_S - FINAL_EVENTS_TIMEOUT_S if is_submitted() else GRACE_S
