"""A run on a cluster that has no machine for its stages until the autoscaler starts some."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.autoscaling import autoscaling_cluster

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster with up to two machines with 2 CPUs, and one with 2 CPUs and an H100."""
    # A group takes 10 s from its admission to the start of its workers, and more on busy cores. Its
    # machines must not leave meanwhile.
    with autoscaling_cluster(idle_timeout_s=600) as address:
        yield address


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    return tmp_path


def _run(folder: Path, address: str, stages: dict[str, dict[str, object]]) -> tuple[int, str]:
    """Run a job with these stages of the kind `count`. Returns the exit code and stderr."""
    full = {name: {"kind": "count", "data": "data", **fields} for name, fields in stages.items()}
    job = {"name": "grows", "store": "./store", "stages": full}
    (folder / "job.yaml").write_text(json.dumps(job))
    words = ["run", "job.yaml", "--address", address]
    process = subprocess.run(
        [sys.executable, "-m", "tests.orchestrator", *words],
        cwd=folder,
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )
    return process.returncode, process.stderr


def _manifests(folder: Path) -> dict[str, Any]:
    documents = [json.loads(path.read_text()) for path in folder.glob("store/manifests/*.json")]
    return {document["stage"]: document for document in documents}


# First: as long as machines are there, they may leave and make room.
def test_group_for_which_no_machine_can_be_started_is_refused(folder: Path, address: str) -> None:
    large = {"cpus_per_worker": 3, "max_wait_min": 10}
    code, errors = _run(folder, address, {"large": {"resources": large}})
    assert code == 3, errors[-5000:]
    assert "large: needs 1 worker with 3 CPUs" in errors
    assert "reduce stages.large.resources or raise the limits of the cluster" in errors


def test_run_starts_on_a_cluster_without_machines(folder: Path, address: str) -> None:
    group = {"workers": 2, "cpus_per_worker": 2}
    gpu = {"gpus_per_worker": 1, "backend": "gloo", "accelerator": "H100"}
    stages: dict[str, dict[str, object]] = {
        "group": {"resources": group, "epochs": 2},
        "gpu": {"resources": gpu, "gain": 2},
        "after": {"resources": {"cpus_per_worker": 2}, "source": "group.count"},
    }
    code, errors = _run(folder, address, stages)
    assert code == 0, errors[-5000:]
    assert _manifests(folder)["group"]["provenance"]["workers"] == 2
    assert "group: waiting for resources: needs 2 workers with 2 CPUs each" in errors
    assert "autoscaler: it starts machines for the group" in errors
