"""A Slurm of one node on this machine, with its own key, ports and folders."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import free_port

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
FirstJobId={first_job}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class SlurmNode:
    folder: Path

    def call(self, *command: str) -> str:
        """Run a command of Slurm; return what it prints."""
        environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def end_jobs(self) -> None:
        """Cancel all jobs and wait for the end of their processes."""
        self.call("scancel", "--full", "--user=root")
        wait_for(lambda: not self.call("squeue", "--noheader"), "a job does not end")

    def job_state(self, job: str) -> str:
        shown = self.call("scontrol", "--oneliner", "show", "job", job)
        return shown.partition("JobState=")[2].split()[0]


@contextmanager
def slurm_of_one_node(folder: Path, *, cpus: int) -> Iterator[SlurmNode]:
    """Start Slurm's processes and wait until the node is idle. They end with the block."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    text = CONFIGURATION.format(
        host=socket.gethostname(),
        folder=folder,
        cpus=cpus,
        first_job=random.randint(1, 2**20),  # names of folders and ports depend on it
        controller_port=free_port(),
        node_port=free_port(),
    )
    (folder / "slurm.conf").write_text(text)
    node = SlurmNode(folder)
    configuration = str(folder / "slurm.conf")
    with ExitStack() as stack:
        for command in (
            _munge(folder),
            ["slurmctld", "-D", "-c", "-f", configuration],
            ["slurmd", "-D", "-c", "-f", configuration],
        ):
            stack.enter_context(_running(command, folder))
        wait_for(lambda: "idle" in node.call("sinfo", "--noheader"), "the node is not idle")
        try:
            yield node
        finally:
            node.end_jobs()


def _munge(folder: Path) -> list[str]:
    files = {name: folder / f"munge.{name}" for name in ("key", "socket", "log", "pid", "seed")}
    return [
        "munged",
        "--foreground",
        "--force",  # it warns about a folder that others can write to
        f"--key-file={files['key']}",
        f"--socket={files['socket']}",
        f"--log-file={files['log']}",
        f"--pid-file={files['pid']}",
        f"--seed-file={files['seed']}",
    ]


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[None]:
    with (folder / f"{command[0]}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def wait_for(is_done: Callable[[], bool], fault: str, timeout_s: float = 1800) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if is_done():
                return
        except AssertionError:  # Slurm's own processes are still starting
            pass
        assert time.monotonic() < deadline, fault
        time.sleep(1)
