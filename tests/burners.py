"""Keeps both cores of a small machine busy while tests run: `-p tests.burners [--burners N]`.

A test with a process, a signal or a wait must pass on a machine that is four times slower. Burners
run at normal priority, which is higher than the priority of Ray's workers. They end with the tests.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

_BURN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--burners", type=int, default=2, metavar="N", help="processes that each keep one core busy"
    )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # with xdist, only the controller starts burners
        command = [sys.executable, "-c", _BURN]
        burners = [subprocess.Popen(command) for _ in range(config.getoption("burners"))]
        config.add_cleanup(lambda: _end(burners))


def _end(burners: list[subprocess.Popen[bytes]]) -> None:
    for burner in burners:
        burner.kill()
        burner.wait()
