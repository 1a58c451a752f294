"""Workers on a machine that shares only the cluster, S3 and the data with the driver."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cluster import stage
from orchestrator.cluster.connection import connected
from orchestrator.planning import plan_job
from orchestrator.run import run_plan
from orchestrator.spec import load_job
from orchestrator.store import open_store
from tests.orchestrator.counting import KINDS
from tests.ray_nodes import hiding, start_machine

JOB = """
name: far
store: {store}
stages:
  search:
    kind: tune
    of: group
    space: {{gain: {{choice: [1.0, 2.0]}}}}
    num_trials: 1
    algorithm: {{name: random}}
    scheduler: {{name: none}}
    resources: {{workers: 1, labels: {{place: far}}}}
  group: {{kind: count, data: {data}, epochs: 2, resources: {{workers: 2, labels: {{place: far}}}}}}
"""


@pytest.fixture
def drivers_disk(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where this process (the driver) keeps temporary files and the AWS settings."""
    folder = tmp_path / "disk"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    (folder / "config").write_text(f"[default]\nregion = us-east-1\nendpoint_url = {endpoint}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    for name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    return folder


@pytest.fixture
def far_machine(cluster_address: str, drivers_disk: Path) -> Iterator[None]:
    """A machine of the cluster that sees an empty folder instead of the driver's disk."""
    with connected(cluster_address):
        machine = start_machine("far", cluster_address, before=hiding(drivers_disk))
    yield
    machine.terminate()
    machine.wait()


@pytest.mark.slow
@pytest.mark.usefixtures("far_machine")
def test_workers_need_no_disk_or_config_file_of_the_driver(
    tmp_path: Path, cluster_address: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "clear_training", lambda *_: None)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    (tmp_path / "job.yaml").write_text(
        JOB.format(store=f"s3://{bucket}/far", data=tmp_path / "data")
    )
    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)
    store = open_store(job.store)
    outcome = run_plan(plan_job(job, store), store, address=cluster_address, watch=lambda _: None)
    assert outcome.errors == {}
    written = {name.rpartition("/")[2] for name in store.names("train")}
    assert {name for name in written if not name[:8].isdigit()} == {"state.json", "trial.json"}
