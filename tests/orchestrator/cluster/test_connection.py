"""What becomes of a connection that is still in use."""

from __future__ import annotations

import subprocess
import sys

import pytest
import ray

from orchestrator.cluster.connection import connected

IN_USE = """
import os, sys, threading, time, ray
from orchestrator.cluster.connection import connected

def wait():
    ray.get(ray.remote(lambda: time.sleep(600)).options(num_cpus=0).remote())

with connected(None, is_in_use=lambda: sys.argv[1] == "in use"):
    threading.Thread(target=wait, daemon=True).start()
    time.sleep(1)
time.sleep(1)
os._exit(130)
"""


@pytest.mark.parametrize(("said", "exit_code"), [("in use", 130), ("not in use", 1)])
def test_a_thread_that_waits_for_ray_ends_the_process_after_a_shutdown_alone(
    said: str, exit_code: int, cluster_address: str
) -> None:
    """That it does is Ray's doing, and the reason for `is_in_use`."""
    command = [sys.executable, "-c", IN_USE, said]
    process = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert process.returncode == exit_code, process.stderr[-5000:]


def test_a_connection_that_is_not_in_use_ends_with_its_block(cluster_address: str) -> None:
    with connected(cluster_address) as cluster:
        assert cluster.address == cluster_address
        assert ray.is_initialized()
    assert not ray.is_initialized()
