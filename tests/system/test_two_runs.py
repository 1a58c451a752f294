"""Two runs of one job on one store: each stage is paid for once."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.system.drivers import end, start_driver

SHORT_LEASE = {"ORCHESTRATOR_LEASE_S": "3"}
OFTEN = {"ORCHESTRATOR_LEASE_S": "12"}
"""A run that waits looks three times in a lease. A busy driver still renews this one in time."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    return tmp_path


def _write_job(folder: Path, **fields: object) -> None:
    stages = {
        "first": {"kind": "count", "data": "data", **fields},
        "second": {"kind": "count", "data": "data", "source": "first.count", "epochs": 1},
    }
    job = {"name": "single", "store": "./store", "stages": stages}
    (folder / "job.yaml").write_text(json.dumps(job))


def _worked(folder: Path) -> Counter[str]:
    log = folder / "data" / "worked.log"
    return Counter(log.read_text().splitlines()) if log.exists() else Counter()


def _await_epoch(folder: Path, number: int, driver: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 600
    while f"gain 1 epoch {number}" not in _worked(folder):
        assert driver.poll() is None, driver.communicate()[1][-5000:]
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def _await_line(driver: subprocess.Popen[str], text: str) -> None:
    """Read what a driver prints, until a line has the text."""
    assert driver.stderr is not None
    lines = []
    for line in driver.stderr:
        if text in line:
            return
        lines.append(line)
    raise AssertionError("".join(lines[-50:]))


def _records(folder: Path) -> list[Any]:
    """The records of the runs, oldest first."""
    records = [json.loads(path.read_text()) for path in folder.glob("store/runs/*/run.json")]
    return sorted(records, key=lambda record: float(record["began_at_s"]))


def test_the_second_of_two_runs_waits_and_reuses(folder: Path, cluster_address: str) -> None:
    _write_job(folder, epochs=8, epoch_s=1)
    first = start_driver(folder, **OFTEN)
    _await_epoch(folder, 1, first)
    (folder / "data" / "hold").touch()
    second = start_driver(folder, **OFTEN)
    _await_line(second, "first: waiting: running elsewhere (run ")
    (folder / "data" / "hold").unlink()
    end(second)
    end(first)
    assert set(_worked(folder).values()) == {1, 2}  # the second stage works on epoch 1, too
    assert _worked(folder).total() == 9
    states = [
        {name: row["state"] for name, row in record["stages"].items()}
        for record in _records(folder)
    ]
    assert states[1]["first"] == "reused"
    assert {state["second"] for state in states} <= {"done", "reused"}


def test_no_wait_ends_with_3_and_names_the_other_run(folder: Path, cluster_address: str) -> None:
    _write_job(folder, epochs=30, epoch_s=2)
    first = start_driver(folder)
    _await_epoch(folder, 1, first)
    second = start_driver(folder, "--no-wait")
    _, errors = second.communicate(timeout=600)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=600)
    assert second.returncode == 3, errors[-5000:]
    run_id = _records(folder)[0]["run_id"]
    assert f"stages.first: running elsewhere (run {run_id} on host " in errors
    assert "run again later, or without --no-wait to wait for it" in errors


def test_a_driver_that_sleeps_for_three_leases_loses_its_stage(
    folder: Path, cluster_address: str
) -> None:
    # The worker of the stopped driver must not finish before the second driver takes over.
    _write_job(folder, epochs=120, epoch_s=1, resumed_epoch_s=0)
    first = start_driver(folder, **SHORT_LEASE)
    _await_epoch(folder, 2, first)
    first.send_signal(signal.SIGSTOP)
    second = start_driver(folder, **SHORT_LEASE)
    _await_epoch(folder, 120, second)
    end(second)
    first.send_signal(signal.SIGCONT)
    errors = end(first)
    assert "first: reused: run " in errors or "first: waiting: " in errors
    # An epoch may be under way at the takeover, one may begin while its checkpoint is refused, and
    # one checkpoint may have been between its check and its seal.
    repeated = [text for text, number in _worked(folder).items() if number > 1]
    assert len(repeated) <= 4, repeated
    assert {record["stages"]["first"]["state"] for record in _records(folder)} == {"done", "reused"}
