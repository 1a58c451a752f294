"""Starting, joining and leaving a cluster, also while threads still wait for Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ray

from orchestrator.cluster.connection import connected
from tests.s3_front import Answer, front

IN_USE = """
import os, sys, threading, time, ray
from orchestrator.cluster.connection import connected

def is_waiting():
    frame = sys._current_frames().get(waiter.ident)
    return frame is not None and frame.f_code.co_name == "get_objects"

with connected(None, is_in_use=lambda: True):
    never = ray.remote(lambda: time.sleep(3600)).options(num_cpus=0).remote()
    waiter = threading.Thread(target=ray.get, args=(never,), daemon=True)
    waiter.start()
    while not is_waiting():
        time.sleep(0.1)
time.sleep(5)  # a waiting thread checks about once a second
os._exit(130 if ray.is_initialized() else 1)
"""


def test_a_thread_waiting_for_ray_keeps_the_exit_code(cluster_address: str) -> None:
    """After ray.shutdown such a thread may end the process: `is_in_use` prevents the shutdown."""
    command = [sys.executable, "-c", IN_USE]
    process = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert process.returncode == 130, process.stderr[-5000:]


def test_connection_ends_with_its_block_if_not_in_use(cluster_address: str) -> None:
    with connected(cluster_address) as cluster:
        assert cluster.address == cluster_address
        assert ray.is_initialized()
    assert not ray.is_initialized()


BUSY_AT_FIRST = """
from pathlib import Path
import ray
from ray._private import services
from orchestrator.cluster.connection import connected

find, late = services.get_node, ["The current node timed out during startup."]

def find_late(*arguments):
    if late:
        raise Exception(late.pop())
    return find(*arguments)

def num_raylets():
    files = Path("/proc/self/task").glob("*/children")
    pids = [pid for file in files for pid in file.read_text().split()]
    return sum(Path(f"/proc/{pid}/comm").read_text().strip() == "raylet" for pid in pids)

services.get_node = find_late
with connected("local"):
    print(late, num_raylets(), ray.get(ray.remote(lambda: 7).remote()))
"""


def test_ray_starts_at_the_second_try_on_a_busy_machine() -> None:
    """In a separate process: this one forks loaders later, which must not inherit Ray's threads."""
    command = [sys.executable, "-c", BUSY_AT_FIRST]
    process = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert process.stdout.strip() == "[] 1 7", process.stderr[-5000:]


WORKER = """
import os, sys
import ray
from orchestrator.cluster.connection import connected
from orchestrator.store import open_store

@ray.remote(num_cpus=1)
def read() -> bytes | None:
    # The variables with which the cluster was started take precedence.
    for name in ("AWS_ENDPOINT_URL", "AWS_CA_BUNDLE"):
        os.environ.pop(name, None)
    return open_store("s3://bucket/x").read("a")

with connected(sys.argv[1]):
    print(ray.get(read.remote()))
"""


def test_worker_uses_the_server_of_the_drivers_config_file(
    cluster_address: str, tmp_path: Path
) -> None:
    """The cluster was started without the endpoint, its certificate and the addressing style."""
    with front(lambda *_: Answer(200, b"content"), tls_dir=tmp_path / "tls") as server:
        config = (
            f"endpoint_url = {server.url}\nca_bundle = {tmp_path}/tls/cert.pem\ns3 =\n  "
            "addressing_style = path\n"
        )
        (tmp_path / ".aws").mkdir()
        (tmp_path / ".aws" / "config").write_text(f"[default]\n{config}")
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_ENDPOINT", "AWS_CA"))
        }
        env["HOME"] = str(tmp_path)  # the worker has another home
        command = [sys.executable, "-c", WORKER, cluster_address]
        done = subprocess.run(
            command, env=env, check=False, capture_output=True, text=True, timeout=600
        )
    assert done.stdout == "b'content'\n", done.stderr[-5000:]
    assert server.requests == [("GET", "/bucket/x/a")]
