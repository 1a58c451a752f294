"""Ray nodes that a test starts as users do, and kills like a machine that loses its power."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import ray
from ray.job_submission import JobSubmissionClient

from tests.conftest import free_port

MARK = "TEST_RAY_NODE"
"""The environment variable that marks the processes of a node and of its jobs."""
STARTS = 3
"""On a busy machine the raylet may need longer than the 30 s that Ray allows."""


@dataclass(frozen=True)
class RayNode:
    """A node that `ray start` has started. A folder with a short path is its temporary folder."""

    folder: Path
    port: int = field(default_factory=free_port)
    """The port of the head. Other nodes do not use it."""
    dashboard_port: int = field(default_factory=free_port)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def jobs_url(self) -> str:
        """The address for `ray job submit`."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    def job_client(self) -> JobSubmissionClient:
        """A client of the jobs of this cluster."""
        # The client prefers RAY_ADDRESS, a session's own cluster, to the address that it is given.
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("RAY_ADDRESS", raising=False)
            return JobSubmissionClient(self.jobs_url)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of every process of the node."""
        return {MARK: str(self.folder), "RAY_TMPDIR": str(self.folder)}

    def options(self, *, is_head: bool) -> list[str]:
        """The options of `ray start` that keep the clusters of a machine apart."""
        agents = [f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={self.folder}"]
        if not is_head:
            return agents
        ports = {
            "port": self.port,
            "dashboard-port": self.dashboard_port,
            "ray-client-server-port": free_port(),
        }
        return [*agents, *(f"--{name}={number}" for name, number in ports.items())]

    def start(self, command: Callable[[], object]) -> None:
        """Run a command that starts the node, again if Ray allowed it too little time."""
        for starts_left in reversed(range(STARTS)):
            try:
                command()
            except AssertionError as err:
                if not starts_left or "timed out during startup" not in str(err):
                    raise
                self.kill()
            else:
                return

    def processes(self) -> list[int]:
        """The processes of the node and of its jobs that still run."""
        return _processes_with(f"{MARK}={self.folder}")

    def kill(self) -> None:
        """Kill all processes of the node with -9, also those that start meanwhile."""
        kill_all(self.processes)


def kill_all(processes: Callable[[], list[int]]) -> None:
    """Kill processes with -9 until none is left: they may start others meanwhile."""
    while found := processes():
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)


def _processes_with(variable: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may have ended meanwhile
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


@contextmanager
def new_node() -> Iterator[RayNode]:
    """A node that is not started yet. All its processes are killed with the block."""
    # Paths of sockets have a maximum length.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as name:
        node = RayNode(Path(name))
        try:
            yield node
        finally:
            node.kill()


@contextmanager
def started_node(*options: str, address: str | None = None) -> Iterator[RayNode]:
    """A node of the cluster whose head is at `address`, or the head of a cluster of its own."""
    with new_node() as node:
        role = ["--head"] if address is None else [f"--address={address}"]
        command = ["ray", "start", *role, *node.options(is_head=address is None), *options]
        node.start(lambda: run_shell(command, node.environment))
        yield node


def start_machine(
    place: str,
    address: str,
    *options: str,
    before: Sequence[str] = (),
    environment: Mapping[str, str] = {},
) -> subprocess.Popen[bytes]:
    """Start a machine with this label of the connected cluster, and wait until the cluster has it.
    `before` is a command that runs its processes. The caller ends the process."""
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}"]
    command = [*before, *start, "--num-cpus=2", f"--labels=place={place}", "--block", *options]
    for _ in range(STARTS):
        machine = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while machine.poll() is None:
            if place in places():
                return machine
            time.sleep(0.2)
    raise AssertionError(f"the machine {place} did not start")


def places() -> dict[str, str]:
    """The start of the id of each machine of the connected cluster, by its label `place`."""
    alive = (node for node in ray.nodes() if node["Alive"])
    return {node["Labels"].get("place", ""): node["NodeID"][:8] for node in alive}


def hiding(folder: Path) -> list[str]:
    """A command that runs another one, which sees an empty folder instead of this one."""
    return ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder)]


def run_shell(command: list[str] | str, environment: Mapping[str, str]) -> str:
    """Return what a command prints, and fail with it if the command fails."""
    # The session may have a cluster of its own, which is not the one of the command.
    inherited = {**os.environ, **environment}
    # In a file: the processes of a node would keep a pipe open.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            command,
            env={name: value for name, value in inherited.items() if name != "RAY_ADDRESS"},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            shell=isinstance(command, str),
            executable="/bin/bash" if isinstance(command, str) else None,
            check=False,
            timeout=600,
        )
        output.seek(0)
        printed = output.read().decode(errors="replace")
    assert done.returncode == 0, f"{command}\n{printed[-5000:]}"
    return printed
