"""A real run in which a stage waits for free CPUs, and another one for its input."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orchestrator.planning import plan_job
from orchestrator.progress import Update
from orchestrator.run import run_plan
from orchestrator.runs import journal
from orchestrator.runs.status import Status, load_status
from orchestrator.spec import load_job
from orchestrator.store import open_store
from tests.orchestrator.counting import KINDS

JOB = """
name: counts
store: ./store
stages:
  first: {kind: count, data: data, epochs: 8, epoch_s: 0.3, resources: {cpus_per_worker: 3}}
  second: {kind: count, data: data, epochs: 1, gain: 2.0, resources: {cpus_per_worker: 2}}
  third: {kind: count, data: data, epochs: 1, source: first.count}
"""


def test_status_shows_what_each_waiting_stage_waits_for(
    tmp_path: Path, cluster_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FLUSH_INTERVAL_S", 0.1)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    (tmp_path / "job.yaml").write_text(JOB)
    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)
    store = open_store(job.store)
    statuses: list[Status] = []

    def look(update: Update) -> None:
        if update.stage == "first" and update.event.done is not None:
            statuses.append(load_status(job, store, now_s=time.time()))

    outcome = run_plan(plan_job(job, store), store, address=cluster_address, watch=look)
    assert outcome.exit_code == 0
    first, second, third = statuses[-2].stages
    assert (first.state, first.workers, first.waits_for) == ("running", 1, None)
    assert second.waits_for == "needs 2 CPUs, 1 free"
    assert third.waits_for == "needs first"
    ended = load_status(job, store, now_s=time.time())
    assert [(row.workers, row.waits_for) for row in ended.stages] == [(1, None)] * 3
