"""CPU-seconds of each test, counted over all processes that it starts.

Run the tests with `-p tests.cpu_seconds --cpu-seconds FILE`, then `python -m tests.cpu_seconds
FILE`.

Wall time is not a useful measure when tests share cores with other processes and wait for each
other. A second process, the meter, adds up the CPU time of the process that runs the tests and of
all its descendants in `/proc` (Linux). A test's CPU time is the time used since the previous test
ended. It includes the test's set-up and tear-down and the background work of a shared cluster.
`benchmarks.process_tree` describes how the meter counts.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.process_tree import LOOK_EVERY_S, Meter, adopt_orphans

ROOT = Path(__file__).parents[1]
COLLECTION = "(start and collection)"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cpu-seconds", metavar="FILE", help="append a JSON line for each test to this file"
    )


def pytest_configure(config: pytest.Config) -> None:
    if (file := config.getoption("--cpu-seconds")) is None:
        raise pytest.UsageError("-p tests.cpu_seconds needs --cpu-seconds FILE")
    # xdist's controller runs no tests.
    runs_tests = hasattr(config, "workerinput") or config.getoption("dist", "no") == "no"
    if runs_tests:
        config.pluginmanager.register(_Recorder(config.invocation_params.dir / file))


class _Recorder:
    """Appends a line for each test to the file; several processes may append to it."""

    def __init__(self, file: Path) -> None:
        adopt_orphans()
        command = [sys.executable, "-m", "tests.cpu_seconds", "--meter", str(os.getpid())]
        pipe = subprocess.PIPE
        # The meter has its own session, so Ctrl-C does not reach it.
        self._meter = subprocess.Popen(
            command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, start_new_session=True
        )
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
            self._record(_name(item), wall_s=time.monotonic() - start)

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
        line = {
            "nodeid": name,
            "cpu_s": round(now_s - self._before_s, 2),
            "wall_s": round(wall_s, 2),
        }
        self._before_s = now_s
        os.write(self._file, f"{json.dumps(line)}\n".encode())


def _name(item: pytest.Item) -> str:
    """The test's ID, without the group that xdist appends."""
    group = item.get_closest_marker("xdist_group")
    return item.nodeid if group is None else item.nodeid.removesuffix(f"@{group.args[0]}")


def _serve(root: int) -> None:
    """Answer each input line with the total so far, until the input or the root process ends."""
    meter = Meter(root)
    while Path(f"/proc/{root}").exists():
        total_s = meter.look()
        if select.select([sys.stdin], [], [], LOOK_EVERY_S)[0]:
            if not sys.stdin.readline():
                return
            total_s = meter.look()
            print(total_s, flush=True)


def _summary(lines: list[str]) -> str:
    """The recorded total, the most expensive files and the most expensive tests, as text."""
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
    parser = argparse.ArgumentParser(
        prog="python -m tests.cpu_seconds", description="Summarize recorded CPU-seconds."
    )
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path)
    parser.add_argument("--meter", metavar="PID", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.meter is not None:
        _serve(arguments.meter)
    elif arguments.files:
        print(
            _summary([line for file in arguments.files for line in file.read_text().splitlines()])
        )
    else:
        parser.error("name at least one FILE")


if __name__ == "__main__":
    _main()
