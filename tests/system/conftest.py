"""Fixtures for whole runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def occupied(cluster_address: str) -> Iterator[subprocess.Popen[str]]:
    """A process of another user that holds all CPUs of the cluster until it ends."""
    code = (
        "import ray; ray.init(log_to_driver=False); ray.get(ray.util.placement_group([{'CPU': "
        "4}]).ready());print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code]
    holder = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    yield holder
    holder.terminate()
    holder.communicate()
