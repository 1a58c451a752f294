"""deploy/slurm.sh: its syntax, and a real job that is interrupted, queued again, and resumed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.store import open_store
from tests.deploy.files import DEPLOY, ROOT
from tests.deploy.slurm_nodes import Slurm, slurm_of_nodes, wait_for

SCRIPT = DEPLOY / "slurm.sh"
JOB = """\
name: slurm
store: {store}
stages:
  train:
    kind: pretrain
    data: sample:digits
    data_fraction: 0.3
    model: {{embed_dim: 32, depths: [1, 1, 1, 1], num_heads: [1, 2, 4, 8], img_size: 56}}
    batch_size: 64
    epochs: 6
    lr: 1.0e-3
    auto_augment: null
    loader_workers: 0
    resources: {{workers: 2, cpus_per_worker: 2}}  # each takes a node
"""


def test_bash_and_shellcheck_accept_the_script() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_run_ends_before_slurm_kills_it() -> None:
    text = SCRIPT.read_text()
    (signal_s,) = re.findall(r"^#SBATCH --signal=B:USR1@(\d+)$", text, re.MULTILINE)
    (wait_s,) = re.findall(r"^export RAY_JOB_STOP_WAIT_TIME_S=(\d+)$", text, re.MULTILINE)
    assert int(wait_s) <= int(signal_s) - 60


@pytest.fixture
def slurm() -> Iterator[Slurm]:
    if shutil.which("slurmctld") is None or os.getuid() != 0:
        pytest.skip("needs root and Slurm: apt-get install slurm-wlm munge")
    # Socket paths have a maximum length, so the folder's name is short.
    with (
        tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder,
        slurm_of_nodes(Path(folder), "n1", "n2") as slurm,
    ):
        yield slurm


@pytest.mark.stress
def test_interrupted_job_is_queued_again_and_resumes(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB.format(store=tmp_path / "store"))
    log = tmp_path / "job.log"
    options = ["--parsable", f"--chdir={ROOT}", f"--output={log}", "--nodes=2", "--cpus-per-task=2"]
    job = slurm.call("sbatch", *options, str(SCRIPT), str(tmp_path / "job.yaml")).strip()
    store = open_store(str(tmp_path / "store"))
    wait_for(
        lambda: any(name.endswith(".json") for name in store.names("train")),
        f"no checkpoint: {log}",
    )
    slurm.call("scancel", "--batch", "--signal=USR1", job)
    wait_for(lambda: slurm.job_state(job) == "PENDING", f"not queued again: {log}")
    slurm.call("scontrol", "update", f"jobid={job}", "starttime=now")
    wait_for(lambda: slurm.job_state(job) == "COMPLETED", f"not completed: {log}")
    text = log.read_text()
    assert "interrupted" in text
    assert re.search(r"train: .*resum", text), text
    assert not Path(f"/tmp/ray-{job}").exists()
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert f"/tmp/ray-{job}/" not in processes.stdout
