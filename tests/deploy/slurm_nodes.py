"""A Slurm with nodes on this machine, with its own key, ports and folders."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
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
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=4000\n"


@dataclass(frozen=True)
class Slurm:
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
def slurm_of_nodes(folder: Path, *names: str) -> Iterator[Slurm]:
    """Start Slurm with these nodes of 2 CPUs each, and wait until they are idle.

    At the end of the block, all jobs are cancelled and all processes end.
    """
    (folder / "state").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    configuration = folder / "slurm.conf"
    configuration.write_text(_configuration(folder, names))
    options = ["-D", "-c", "-f", str(configuration)]
    nodes = [["slurmd", *options, "-N", name] for name in names]
    slurm = Slurm(folder)
    with ExitStack() as stack:
        for command in (_munge(folder), ["slurmctld", *options], *nodes):
            stack.enter_context(_running(command, folder))
        all_idle = f"{len(names)} idle"
        wait_for(lambda: all_idle in slurm.call("sinfo", "--format=%D %T"), "nodes are not idle")
        try:
            yield slurm
        finally:
            slurm.end_jobs()


def _configuration(folder: Path, names: Sequence[str]) -> str:
    host = socket.gethostname()
    nodes = (NODE.format(name=name, host=host, port=free_port()) for name in names)
    # Folders and ports of a job depend on its number.
    first_job = random.randint(1, 2**20)
    return CONFIGURATION.format(
        host=host, folder=folder, controller_port=free_port(), first_job=first_job
    ) + "".join(nodes)


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
    with (folder / f"{command[0]}.log").open("ab") as log:
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
