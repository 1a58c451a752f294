"""Processes that run a job as users do.

Those that a failed test leaves are killed: they would keep CPUs of the cluster that the next tests
use.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_started: list[subprocess.Popen[str]] = []


def start_driver(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """Run `job.yaml` in a folder, with the kinds of the tests."""
    command = [sys.executable, "-m", "tests.orchestrator", "run", "job.yaml", *words]
    return start_command(command, folder, environment)


def start_command(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] = {}
) -> subprocess.Popen[str]:
    driver = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _started.append(driver)
    return driver


def end(driver: subprocess.Popen[str]) -> str:
    """Wait for the end of a run that succeeds. Returns what it printed."""
    _, errors = driver.communicate(timeout=600)
    assert driver.returncode == 0, errors[-5000:]
    return errors


def kill_started() -> None:
    """Kill the drivers that still run."""
    while _started:
        driver = _started.pop()
        driver.kill()
        assert driver.stderr is not None
        driver.stderr.close()
        driver.wait()
