"""The status during a run, after its driver was killed, and after the run resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.runs.status import LOST_AFTER_S, Status, load_status
from orchestrator.spec import Job, load_job
from orchestrator.store import open_store
from tests.orchestrator.counting import KINDS
from tests.system.drivers import start_driver

JOB = """
name: counts
store: ./store
stages:
  first: {kind: count, data: data, epochs: 30, epoch_s: 1.0, resumed_epoch_s: 0.6}
  second: {kind: count, data: data, source: first.count, epochs: 1}
"""


@pytest.fixture
def job(tmp_path: Path, cluster_address: str) -> Job:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    (tmp_path / "job.yaml").write_text(JOB)
    return load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)


def _status(job: Job, *, after_s: float = 0) -> Status:
    return load_status(job, open_store(job.store), now_s=time.time() + after_s)


def _await(
    run: subprocess.Popen[str],
    job: Job,
    is_reached: Callable[[Status], bool],
    timeout_s: float = 600,
) -> Status:
    deadline = time.monotonic() + timeout_s
    while not is_reached(status := _status(job)):
        assert run.poll() is None, run.communicate()[1][-5000:]
        assert time.monotonic() < deadline, status
        time.sleep(0.2)
    return status


def test_a_run_with_a_killed_driver_is_lost_and_resumes(job: Job, tmp_path: Path) -> None:
    run = start_driver(tmp_path)
    status = _await(run, job, lambda status: (status.stages[0].done or 0) >= 2)
    assert [status.state, *(row.state for row in status.stages)] == [
        "running",
        "running",
        "waiting",
    ]
    first = status.stages[0]
    assert first.attempt == 1
    assert first.total == 30
    assert first.metrics == {"total": first.done}
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()

    lost = _status(job, after_s=LOST_AFTER_S + 60)
    assert (lost.run_id, lost.state, lost.stages[0].state, lost.stages[0].eta_s) == (
        *(status.run_id, "lost", "lost", None),
    )

    run = start_driver(tmp_path)
    resumed = _await(
        run, job, lambda status: status.run_id != lost.run_id and status.stages[0].eta_s is not None
    )
    row = resumed.stages[0]
    assert row.eta_s is not None and row.done is not None and row.done > 2  # noqa: PT018
    _, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors[-5000:]
    done = _status(job, after_s=LOST_AFTER_S + 60)
    assert [done.state, *(row.state for row in done.stages)] == ["done"] * 3
