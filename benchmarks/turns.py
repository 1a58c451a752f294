"""Runs two trainings on one machine in turns: while one works, the other is stopped.

The speed of a shared machine changes by a fifth from minute to minute, and whole runs would be
minutes apart. Turns of seconds run under the same load. Linux only: it finds processes in /proc.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from benchmarks.command import ROOT, start_module
from benchmarks.stamps import read_stamps, stamping

TURN_S = 1.5
WARM_UP = 10
"""The first iterations of each training, which are not compared."""
_LOOK_EVERY_S = 0.1
_PATIENCE_S = 600.0


class Turn(NamedTuple):
    """The time in which only one player worked, in seconds since 1970."""

    start_s: float
    end_s: float


@dataclass
class Player:
    """A process of `python -m module`, which trains with mmengine for `iterations`."""

    module: str
    arguments: Sequence[str]
    folder: Path
    """Where the files `stdout` and `stderr` and the stamps are written."""
    iterations: int
    worker: str | None = None
    """The first part of the title of the process to stop; None stops all processes.

    With Ray only the worker is stopped. When all of Ray was stopped, its processes had so much to
    catch up in their turns that they interrupted the worker 17 times an iteration instead of once.
    """
    turns: list[Turn] = field(default_factory=list)
    began_s: float = 0.0
    _process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def started(self) -> Iterator[None]:
        """Start it, wait for its first iteration, and stop it.

        On exit a process that still runs is killed.
        """
        self.began_s = time.time()
        with (
            (self.folder / "stdout").open("wb") as stdout,
            (self.folder / "stderr").open("wb") as stderr,
        ):
            self._process = start_module(
                self.module,
                *self.arguments,
                stdout=stdout,
                stderr=stderr,
                environment=stamping(self.folder, ROOT),
            )
        try:
            self._await(lambda: bool(read_stamps(self.folder)))
            self._signal(signal.SIGSTOP)
            yield
        finally:
            if self._process.poll() is None:
                _signal(signal.SIGKILL, self._processes)

    def take_turn(self) -> None:
        start_s = time.time()
        self._signal(signal.SIGCONT)
        self._await(lambda: self.is_through or time.time() > start_s + TURN_S)
        self._signal(signal.SIGSTOP)
        self.turns.append(Turn(start_s, time.time()))

    def finish(self) -> None:
        """Let it work to its end. Exits if the command fails."""
        assert self._process is not None
        self._signal(signal.SIGCONT)
        if self._process.wait(timeout=_PATIENCE_S):
            self._give_up(f"exit code {self._process.returncode}")

    @property
    def is_through(self) -> bool:
        return len(read_stamps(self.folder)) >= self.iterations

    def _await(self, is_so: Callable[[], bool]) -> None:
        assert self._process is not None
        deadline_s = time.monotonic() + _PATIENCE_S
        while not is_so():
            if self._process.poll() is not None:
                self._give_up(f"exit code {self._process.returncode} before its last iteration")
            if time.monotonic() > deadline_s:
                self._give_up(f"no iteration for {_PATIENCE_S:g} s")
            time.sleep(_LOOK_EVERY_S)

    def _give_up(self, why: str) -> None:
        end = (self.folder / "stderr").read_text(errors="replace")[-4000:]
        sys.exit(f"python -m {self.module} {' '.join(self.arguments)}: {why}\n{end}")

    def _signal(self, signum: signal.Signals) -> None:
        _signal(signum, self._processes if self.worker is None else self._workers)

    def _processes(self) -> set[int]:
        assert self._process is not None
        return {self._process.pid, *processes_below(self._process.pid)}

    def _workers(self) -> set[int]:
        return {pid for pid in self._processes() if _title(pid).startswith(self.worker or "")}


def _signal(signum: signal.Signals, find: Callable[[], set[int]]) -> None:
    """Signal all processes that `find` returns, including those that start meanwhile."""
    reached: set[int] = set()
    while new := find() - reached:
        for pid in new:
            with suppress(ProcessLookupError):
                os.kill(pid, signum)
        reached |= new


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0 ")
    except OSError:  # it has ended
        return ""


def processes_below(pid: int) -> set[int]:
    """All descendants of a process."""
    parents = dict(_parents())
    found: set[int] = set()
    while new := {child for child, parent in parents.items() if parent in {pid, *found}} - found:
        found |= new
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            # The program's name is in brackets, and may hold spaces and brackets.
            yield int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])


def play(first: Player, second: Player) -> None:
    """Start both, alternate turns until one has all its iterations, then let both finish."""
    with first.started(), second.started():
        for pair in cycle(((first, second), (second, first))):
            for player in pair:
                player.take_turn()
            if first.is_through or second.is_through:
                break
        first.finish()
        second.finish()


def rates(player: Player) -> list[float | None]:
    """Iterations a second in each of its turns.

    None for a turn of the warm-up, or one in which fewer than two iterations ended.
    """
    times = [stamp.time_s for stamp in read_stamps(player.folder)][WARM_UP:]
    return [
        _rate([time_s for time_s in times if turn.start_s <= time_s <= turn.end_s])
        for turn in player.turns
    ]


def _rate(times: Sequence[float]) -> float | None:
    return None if len(times) <= 1 else (len(times) - 1) / (times[-1] - times[0])
