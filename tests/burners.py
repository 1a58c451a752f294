"""Keeps both cores of a small machine busy while tests run: `-p tests.burners [--burners N]`.

A test with a process, a signal or a wait must pass on a machine that is four times slower: with two
burners and two processes of tests, each test gets half a core. Burners end with the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_BURN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--burners", type=int, default=2, metavar="N", help="processes that each keep one core busy"
    )


def pytest_configure(config: pytest.Config) -> None:
    # By default, Ray's workers have such a low priority that burners would leave them nothing.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  Ray's spelling
    if not hasattr(config, "workerinput"):  # with xdist, only the controller starts burners
        command = [sys.executable, "-c", _BURN]
        burners = [subprocess.Popen(command) for _ in range(config.getoption("burners"))]
        config.add_cleanup(lambda: _end(burners))


def _end(burners: list[subprocess.Popen[bytes]]) -> None:
    for burner in burners:
        burner.kill()
        burner.wait()
