"""Runs a module in its own process, as a user does, and parses counts in arguments.

The process starts its own Ray and uses one thread.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).parents[1]
_TIMEOUT_S = 1800
_NOT_OURS = ("RAY_ADDRESS", "MASTER_ADDR", "MASTER_PORT")


class Done(NamedTuple):
    """A command that succeeded. `began_s` is in seconds since 1970."""

    began_s: float
    wall_s: float
    stdout: str


def run_module(module: str, *arguments: str, environment: Mapping[str, str] = {}) -> Done:
    """Run `python -m module` to its end, with `environment` added. On failure, print stderr and
    exit with 1."""
    began_s = time.time()
    command = _command(module, arguments)
    done = subprocess.run(  # noqa: S603  of our own making
        command,
        cwd=ROOT,
        env=_environment() | dict(environment),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-4000:]}")
    return Done(began_s, time.time() - began_s, done.stdout)


def start_module(
    module: str,
    *arguments: str,
    stdout: IO[bytes],
    stderr: IO[bytes],
    environment: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    """Start `python -m module` with `environment` added; return the running process."""
    whole = _environment() | dict(environment)
    return subprocess.Popen(  # noqa: S603
        _command(module, arguments), cwd=ROOT, env=whole, stdout=stdout, stderr=stderr
    )


def _command(module: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
    return environment | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type for whole numbers from `least`."""

    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least}, got {text!r}")
        return int(text)

    return count
