"""The plugin that counts CPU-seconds, on tests whose processes report their own CPU time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from tests.conftest import ROOT

PROCESSES = """
import os, signal, subprocess, sys, time

def start(function, *words, **options):
    return subprocess.Popen([sys.executable, __file__, function, *words], **options)

def burn():
    end_s = time.process_time() + 1  # the process may have used as much to start
    while time.process_time() < end_s:
        sum(range(10_000))
    write("used", str(time.process_time() - end_s + 1))

def burn_detached():
    start("burn", start_new_session=True)

def burn_and_stay():
    burn()
    wait_for("may_end")

def never_wait_for_a_child():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    child = start("burn_and_stay").pid
    while os.path.exists(f"/proc/{child}"):
        time.sleep(0.01)
    write("has_ended", "")
    wait_for("never")

def write(name, text):
    with open(name + ".new", "w") as file:
        file.write(text)
    os.rename(name + ".new", name)

def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.01)

if __name__ == "__main__":
    globals()[sys.argv[1]]()
"""
# Each process has four fields in `/proc/*/stat`, in hundredths of a second and rounded down.
ROUNDING_S = 0.1


def test_a_detached_grandchild_counts_for_its_test(
    tmp_path: Path,
) -> None:
    tests = """
        def test_nothing():
            pass

        def test_grandchild():
            processes.start("burn_detached").wait()
            processes.wait_for("used")
    """
    cpu_s, used_s = _measure(tests, tmp_path)
    assert cpu_s["test_grandchild"] >= used_s - ROUNDING_S
    assert cpu_s["test_nothing"] < used_s


def test_the_cpu_time_of_an_unawaited_child_is_kept(tmp_path: Path) -> None:
    tests = """
        def test_child_burns():
            global parent
            parent = processes.start("never_wait_for_a_child")
            processes.wait_for("used")

        def test_child_ends():
            processes.write("may_end", "")
            processes.wait_for("has_ended")
            parent.kill()
            parent.wait()
    """
    cpu_s, used_s = _measure(tests, tmp_path)
    assert cpu_s["test_child_burns"] + cpu_s["test_child_ends"] >= used_s - ROUNDING_S


def test_xdist_processes_write_one_file_of_cpu_seconds(tmp_path: Path) -> None:
    tests = """
        def test_one():
            pass

        def test_two():
            processes.burn()
    """
    cpu_s, used_s = _measure(tests, tmp_path, "--numprocesses", "2")
    assert set(cpu_s) == {"test_one", "test_two"}
    command = [sys.executable, "-m", "tests.cpu_seconds", str(tmp_path / "records")]
    total, _, *files_and_tests = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    assert total.endswith(" CPU-seconds in 2 tests of 1 files")
    assert float(total.split()[0]) >= used_s - 1
    assert (
        files_and_tests.index(f"{cpu_s['test_two']:9.1f}  test_burning.py::test_two")
        < len(files_and_tests) - 1
    )


def _measure(tests: str, folder: Path, *options: str) -> tuple[dict[str, float], float]:
    """CPU-seconds of each test, and the CPU-seconds that the burning process reports itself."""
    (folder / "processes.py").write_text(PROCESSES)
    (folder / "test_burning.py").write_text(f"import processes\n{dedent(tests)}")
    plugin = ["-p", "tests.cpu_seconds", "--cpu-seconds", "records"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        ".",
        *plugin,
        *options,
    ]
    subprocess.run(command, cwd=folder, check=True)
    records = [json.loads(line) for line in (folder / "records").read_text().splitlines()]
    cpu_s = {
        record["nodeid"].partition("::")[2]: record["cpu_s"]
        for record in records
        if "::" in record["nodeid"]
    }
    return cpu_s, float((folder / "used").read_text())
