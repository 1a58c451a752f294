"""The CPU-seconds of a process and of all processes that it starts, including daemons (Linux).

- A process whose parent has ended moves up to the nearest "child subreaper" above it.
- A parent that waits for a child takes over the child's time, so nothing is counted twice or lost.
- A parent that ignores SIGCHLD never waits. Ray's raylet ignores it, and its workers do the
  training. So the meter looks several times a second and keeps the last value that it saw. It
  misses at most the time that such a child used after the last look.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections import defaultdict
from dataclasses import dataclass

_PR_SET_CHILD_SUBREAPER = 36
LOOK_EVERY_S = 0.2


def adopt_orphans() -> None:
    """Make this process the parent of all processes below it whose own parent has ended.

    Raises OSError if Linux refuses.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


@dataclass(frozen=True)
class _Process:
    parent: int
    cpu_s: float
    """Includes the time of children for which it has waited."""


class Meter:
    """The CPU-seconds of the process `root` and of all processes below it, without this process."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._seen: dict[tuple[int, str], _Process] = {}
        """The running processes and zombies at the last look, by process ID and start time.

        The start time is needed because Linux reuses process IDs.
        """
        self._unwaited: set[int] = set()
        """The IDs of parents that ignored SIGCHLD at the last look."""
        self._lost_s = 0.0
        """CPU-seconds of ended processes that no parent waited for, as last seen."""

    def look(self) -> float:
        """Return the total so far. Call this every LOOK_EVERY_S."""
        now = _below(self._root, _processes())
        gone = (process for key, process in self._seen.items() if key not in now)
        self._lost_s += sum(process.cpu_s for process in gone if process.parent in self._unwaited)
        self._unwaited = {
            pid for pid in {process.parent for process in now.values()} if _ignores_sigchld(pid)
        }
        self._seen = now
        return self._lost_s + sum(process.cpu_s for process in now.values())


def _processes() -> dict[tuple[int, str], _Process]:
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (stat := _read(f"/proc/{entry.name}/stat")):
            # The fields after the name (which may hold spaces) are: state, parent, ..., four CPU
            # times (11 to 14), ..., start time (19).
            fields = stat.rpartition(")")[2].split()
            found[int(entry.name), fields[19]] = _Process(
                int(fields[1]), sum(map(int, fields[11:15])) / ticks_per_s
            )
    return found


def _below(
    root: int, processes: dict[tuple[int, str], _Process]
) -> dict[tuple[int, str], _Process]:
    """`root` and its descendants, without this process."""
    children = defaultdict(list)
    for (pid, start), process in processes.items():
        children[process.parent].append((pid, start))
    found = [key for key in processes if key[0] == root]
    for pid, _ in found:  # the loop appends to `found`
        found += [child for child in children[pid] if child[0] != os.getpid()]
    return {key: processes[key] for key in found}


def _ignores_sigchld(pid: int) -> bool:
    lines = _read(f"/proc/{pid}/status").splitlines()
    ignored = next((line.split()[1] for line in lines if line.startswith("SigIgn:")), "0")
    return bool(int(ignored, 16) >> (signal.SIGCHLD - 1) & 1)


def _read(path: str) -> str:
    """The text of a file in `/proc`; empty if its process has ended.

    `os.read` takes a third of the time of `Path.read_text`.
    """
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return os.read(file, 1 << 16).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(file)
