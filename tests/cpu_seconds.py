"""CPU-seconds of each test, counted over all processes that it starts.

Run the tests with `-p tests.cpu_seconds --cpu-seconds FILE`, then `python -m tests.cpu_seconds FILE`.

Wall time says little where tests share cores with others and wait for one another. A second process, the meter, adds
up the CPU time of the process that runs the tests and of everything below it in `/proc` (Linux). A test gets what was
used since the test before it ended, so its set-up, its tear-down and a shared cluster's background work are in it.

- A process whose parent has ended moves up to the tests' process, which is made a "child subreaper" for that.
- A parent that waits for a child takes over the child's time, so nothing is counted twice or lost.
- A parent that ignores SIGCHLD never waits. Ray's raylet does so, and its workers do the training. The meter
  looks several times a second and keeps what it saw last: at most the end of such a child's life is missed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PR_SET_CHILD_SUBREAPER = 36
LOOK_EVERY_S = 0.2
COLLECTION = "(start and collection)"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cpu-seconds", metavar="FILE", help="append a JSON line for each test to this file")


def pytest_configure(config: pytest.Config) -> None:
    if (file := config.getoption("--cpu-seconds")) is None:
        raise pytest.UsageError("-p tests.cpu_seconds needs --cpu-seconds FILE")
    runs_tests = hasattr(config, "workerinput") or config.getoption("dist", "no") == "no"  # not xdist's controller
    if runs_tests:
        config.pluginmanager.register(_Recorder(config.invocation_params.dir / file))


class _Recorder:
    """Appends a line for each test to the file, to which other processes append theirs."""

    def __init__(self, file: Path) -> None:
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")
        command = [sys.executable, "-m", "tests.cpu_seconds", "--meter", str(os.getpid())]
        pipe = subprocess.PIPE  # in a session of its own, where Ctrl-C does not reach it
        self._meter = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._before_s = 0.0

    def pytest_collection_finish(self) -> None:
        self._record(COLLECTION, wall_s=0.0)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        start = time.monotonic()
        try:
            return (yield)
        finally:
            self._record(item.nodeid, wall_s=time.monotonic() - start)

    def pytest_unconfigure(self) -> None:
        self._meter.kill()
        self._meter.communicate()
        os.close(self._file)

    def _record(self, name: str, *, wall_s: float) -> None:
        assert self._meter.stdin
        assert self._meter.stdout
        self._meter.stdin.write("\n")
        self._meter.stdin.flush()
        now_s = float(self._meter.stdout.readline())
        line = {"nodeid": name, "cpu_s": round(now_s - self._before_s, 2), "wall_s": round(wall_s, 2)}
        self._before_s = now_s
        os.write(self._file, f"{json.dumps(line)}\n".encode())


@dataclass(frozen=True)
class _Process:
    parent: int
    cpu_s: float
    """Its own time, and that of its children for which it has waited."""


class _Meter:
    """The CPU-seconds of one process and of all below it, except of this one."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._seen: dict[tuple[int, str], _Process] = {}
        """The living and the zombies when it last looked, by number and time of start: numbers are used again."""
        self._unwaited: set[int] = set()
        """Those of them that ignored SIGCHLD."""
        self._lost_s = 0.0
        """What ended processes for which nobody waited had used when they were last seen."""

    def look(self) -> float:
        now = _below(self._root, _processes())
        gone = (process for key, process in self._seen.items() if key not in now)
        self._lost_s += sum(process.cpu_s for process in gone if process.parent in self._unwaited)
        self._unwaited = {pid for pid in {process.parent for process in now.values()} if _ignores_sigchld(pid)}
        self._seen = now
        return self._lost_s + sum(process.cpu_s for process in now.values())

    def serve(self) -> None:
        """Answer each line of the input with the total so far, until the input or the root process ends."""
        while Path(f"/proc/{self._root}").exists():
            total_s = self.look()
            if select.select([sys.stdin], [], [], LOOK_EVERY_S)[0]:
                if not sys.stdin.readline():
                    return
                total_s = self.look()
                print(total_s, flush=True)


def _processes() -> dict[tuple[int, str], _Process]:
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (stat := _read(f"/proc/{entry.name}/stat")):
            # Behind the name, which may hold spaces: state, parent, ..., four times (11 to 14), ..., start (19)
            fields = stat.rpartition(")")[2].split()
            found[int(entry.name), fields[19]] = _Process(int(fields[1]), sum(map(int, fields[11:15])) / ticks_per_s)
    return found


def _below(root: int, processes: dict[tuple[int, str], _Process]) -> dict[tuple[int, str], _Process]:
    """`root` and its descendants, without this process."""
    children = defaultdict(list)
    for (pid, start), process in processes.items():
        children[process.parent].append((pid, start))
    found = [key for key in processes if key[0] == root]
    for pid, _ in found:  # grows meanwhile
        found += [child for child in children[pid] if child[0] != os.getpid()]
    return {key: processes[key] for key in found}


def _ignores_sigchld(pid: int) -> bool:
    lines = _read(f"/proc/{pid}/status").splitlines()
    ignored = next((line.split()[1] for line in lines if line.startswith("SigIgn:")), "0")
    return bool(int(ignored, 16) >> (signal.SIGCHLD - 1) & 1)


def _read(path: str) -> str:
    """A file of `/proc`; nothing if its process has ended. In a third of the time that `Path` needs."""
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


def _summary(lines: list[str]) -> str:
    """The total, the most expensive files and the most expensive tests of what was recorded."""
    tests, files = defaultdict[str, float](float), defaultdict[str, float](float)
    for record in map(json.loads, lines):
        tests[record["nodeid"]] += record["cpu_s"]
        files[record["nodeid"].partition("::")[0]] += record["cpu_s"]
    num_tests, num_files = (len(names.keys() - {COLLECTION}) for names in (tests, files))
    total = f"{sum(tests.values()):.0f} CPU-seconds in {num_tests} tests of {num_files} files"
    return "\n".join([total, "", *_most_expensive(files, 20), "", *_most_expensive(tests, 30)])


def _most_expensive(cpu_s: dict[str, float], num: int) -> list[str]:
    ordered = sorted(cpu_s.items(), key=lambda item: item[1], reverse=True)
    return [f"{seconds:9.1f}  {name}" for name, seconds in ordered[:num]]


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cpu_seconds", description="Sums up what was recorded.")
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path)
    parser.add_argument("--meter", metavar="PID", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.meter is not None:
        _Meter(arguments.meter).serve()
    elif arguments.files:
        print(_summary([line for file in arguments.files for line in file.read_text().splitlines()]))
    else:
        parser.error("name at least one FILE")


if __name__ == "__main__":
    _main()
