"""Runs of different jobs on one cluster, each with a driver of its own: none of them starves."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.system.drivers import end, start_driver

pytestmark = pytest.mark.slow


def _start(folder: Path, stages: dict[str, dict[str, object]]) -> subprocess.Popen[str]:
    """Start a run of a job with these stages of the kind `count`, in a folder of its own."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "content.txt").write_text("content")
    full = {name: {"kind": "count", "data": "data", **fields} for name, fields in stages.items()}
    job = {"name": folder.name, "store": "./store", "stages": full}
    (folder / "job.yaml").write_text(json.dumps(job))
    return start_driver(folder)


def _record(folder: Path) -> Any:
    found = list(folder.glob("store/runs/*/run.json"))
    return json.loads(found[0].read_text()) if found else {"stages": {}}


def _ends_s(folder: Path) -> list[float]:
    """When the stages of a run ended, in order."""
    manifests = [json.loads(path.read_text()) for path in folder.glob("store/manifests/*.json")]
    return sorted(one["provenance"]["attempts"][-1]["ended_at_s"] for one in manifests)


def _await_running(folder: Path, stage: str, driver: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 600
    while _record(folder)["stages"].get(stage, {}).get("state") != "running":
        assert driver.poll() is None, driver.communicate()[1][-5000:]
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def _half(gain: float, **resources: object) -> dict[str, object]:
    """A stage that uses half of the cluster for a second."""
    half = {"cpus_per_worker": 2, **resources}
    return {"epochs": 1, "epoch_s": 1, "gain": gain, "resources": half}


def test_run_that_comes_later_gets_its_turns(tmp_path: Path, cluster_address: str) -> None:
    first = _start(tmp_path / "first", {f"s{index}": _half(index + 1) for index in range(12)})
    _await_running(tmp_path / "first", "s0", first)
    second = _start(tmp_path / "second", {f"s{index}": _half(index + 1) for index in range(3)})
    end(second)
    end(first)
    assert _ends_s(tmp_path / "second")[-1] < _ends_s(tmp_path / "first")[-3]


def test_stage_that_needs_the_whole_cluster_starts_before_later_small_ones(
    tmp_path: Path, cluster_address: str
) -> None:
    small = {f"s{index}": {**_half(index + 1), "epoch_s": 8} for index in range(12)}
    first = _start(tmp_path / "first", small)
    _await_running(tmp_path / "first", "s1", first)
    whole = {"cpus_per_worker": 4, "max_wait_min": 2}
    second = _start(tmp_path / "second", {"whole": _half(1, **whole)})
    errors = end(second)
    end(first)
    (ended_s,) = _ends_s(tmp_path / "second")
    assert ended_s < _ends_s(tmp_path / "first")[-1]
    assert "whole: waiting for resources: needs 1 worker with 4 CPUs" in errors
