"""Today's code reads a store from a run of 2026-11-30, before decision 0015 moved the modules.

Its job has a finished stage, a finished search, and a stage that was interrupted after 4 of its 8
epochs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

JOB = """\
name: kept
store: ./store
stages:
  first: {kind: count, data: data, epochs: 2}
  search:
    kind: tune
    of: first
    space: {gain: {choice: [1.0, 2.0]}}
    num_trials: 2
    algorithm: {name: random}
  second:
    kind: count
    data: data
    source: first.checkpoint
    params_from: search.best_params
    epochs: 8
    epoch_s: 0
"""
KEYS = {
    "first": "762f0dbabb0b9f7376ff7b05afed353e77770dc612ff78e9db6a0bc3ad663dd1",
    "search": "1f103c730422351e28be70de0769c44919010941f8da50092d40a1809ffee37b",
    "second": "c1152df54c8167c91a855259872ce31913c05b0fefa04968938e26e8945045db",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "tests" / "data" / "store", tmp_path / "store")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def _orchestrator(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "tests.orchestrator", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


def test_plan_reuses_the_stages_of_an_old_store(folder: Path) -> None:
    stages: list[Any] = json.loads(_orchestrator(folder, "plan", "job.yaml", "--json"))["stages"]
    assert {stage["name"]: stage["key"] for stage in stages} == KEYS
    assert [stage["verdict"] for stage in stages] == ["REUSE", "REUSE", "RUN"]


def test_report_shows_the_results_of_an_old_store(folder: Path) -> None:
    report: Any = json.loads(_orchestrator(folder, "report", "job.yaml", "--format", "json"))
    cells = {cell["stage"]: cell for cell in report["cells"]}
    assert cells["first"]["value"] == 2.0
    assert cells["first"]["key"] == KEYS["first"]
    assert cells["second"]["value"] is None
    assert len(report["searches"]["search"]["trials"]) == 2


def test_status_shows_the_progress_of_an_old_run(folder: Path) -> None:
    status: Any = json.loads(_orchestrator(folder, "status", "job.yaml", "--json"))
    rows = {row["stage"]: row for row in status["stages"]}
    assert status["state"] == "interrupted"
    assert rows["first"]["state"] == "done"
    assert rows["second"]["state"] == "interrupted"
    assert rows["second"]["done"] == 4
    assert rows["second"]["total"] == 8


def test_a_run_resumes_an_old_interrupted_run(folder: Path, cluster_address: str) -> None:
    _orchestrator(folder, "run", "job.yaml")
    worked = (folder / "data" / "worked.log").read_text().splitlines()
    assert worked == [f"gain 1 epoch {epoch}" for epoch in (5, 6, 7, 8)]
    stages: list[Any] = json.loads(_orchestrator(folder, "plan", "job.yaml", "--json"))["stages"]
    assert {stage["verdict"] for stage in stages} == {"REUSE"}
