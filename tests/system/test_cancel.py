"""Cancelled stages and runs, on a real cluster."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from orchestrator.errors import InterruptedRunError
from orchestrator.planning import plan_job
from orchestrator.progress import Update
from orchestrator.run import Outcome, run_plan
from orchestrator.runs.cancel import WHOLE_RUN, request_cancel
from orchestrator.runs.last_run import load_last_run
from orchestrator.runs.record import RunRecord, load_record
from orchestrator.spec import Job, load_job
from orchestrator.store import Store, open_store
from tests.orchestrator.counting import KINDS

Runner = Callable[..., Outcome]

LONG = {"kind": "count", "data": "data", "epochs": 60, "epoch_s": 1, "resumed_epoch_s": 0}


@pytest.fixture
def run(tmp_path: Path, cluster_address: str) -> Runner:
    """A function that runs stages and cancels some at the first event whose text begins with
    `at`."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")

    def run_stages(
        stages: Mapping[str, object], *, at: str | None = None, cancels: tuple[str, ...] = ()
    ) -> Outcome:
        job = _job(tmp_path, stages)
        store = open_store(job.store)
        is_asked = False

        def watch(update: Update) -> None:
            nonlocal is_asked
            if at is not None and update.event.text.startswith(at) and not is_asked:
                is_asked = True
                request_cancel(store, _record(job, store).run_id, cancels, now_s=time.time())

        return run_plan(
            plan_job(job, store), store, address=cluster_address, watch=watch, cancel_poll_s=0.2
        )

    return run_stages


def _job(folder: Path, stages: Mapping[str, object]) -> Job:
    (folder / "job.yaml").write_text(
        json.dumps({"name": "counts", "store": "./store", "stages": stages})
    )
    return load_job(folder / "job.yaml", kinds=KINDS, base_dir=folder)


def _record(job: Job, store: Store) -> RunRecord:
    last = load_last_run(store, job.name)
    assert last is not None
    return load_record(store, last.run_id)


def _worked(folder: Path) -> list[str]:
    return (folder / "data" / "worked.log").read_text().splitlines()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cancelled_stage_resumes_from_its_checkpoint(
    run: Runner, tmp_path: Path, workers: int
) -> None:
    stages = {
        "first": {**LONG, "resources": {"workers": workers}},
        "next": {"kind": "count", "data": "data", "epochs": 1, "source": "first.count"},
        "other": {"kind": "count", "data": "data", "epochs": 1, "gain": 2.0},
    }
    outcome = run(stages, at="epoch 2/60", cancels=("first",))
    assert outcome.states == {"first": "cancelled", "next": "blocked", "other": "done"}
    assert (outcome.errors, outcome.exit_code) == ({}, 1)
    job = _job(tmp_path, stages)
    record = _record(job, open_store(job.store))
    assert record.state == "cancelled"
    assert "its checkpoint is committed" in record.stages["first"].event
    assert run(stages).exit_code == 0
    epochs = [f"gain 1 epoch {epoch}" for epoch in range(1, 61)]
    assert [line for line in _worked(tmp_path) if line in epochs[1:]] == epochs[1:]


def test_a_cancelled_search_resumes_its_trials(run: Runner, tmp_path: Path) -> None:
    search = {"kind": "tune", "of": "only", "space": {"gain": {"choice": [2.0, 3.0, 4.0]}}}
    stages = {
        "search": {**search, "algorithm": {"name": "grid"}, "scheduler": {"name": "none"}},
        "only": {**LONG, "epochs": 25, "params_from": "search.best_params"},
        "other": {"kind": "count", "data": "data", "epochs": 1, "gain": 9.0},
    }
    outcome = run(stages, at="trial gain=2: epoch 2/25", cancels=("search",))
    assert outcome.states == {"search": "cancelled", "only": "blocked", "other": "done"}
    assert run(stages).exit_code == 0
    worked = [line for line in _worked(tmp_path) if line.startswith("gain 2")]
    assert sorted(set(worked)) == sorted(worked)


def test_waiting_stages_are_cancelled_at_once(run: Runner, occupied: subprocess.Popen[str]) -> None:
    stages = {"first": LONG, "next": {**LONG, "source": "first.count"}}
    outcome = run(stages, at="waiting for resources", cancels=("first", "next"))
    assert outcome.states == {"first": "cancelled", "next": "cancelled"}
    assert outcome.exit_code == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stage_that_cannot_stop_ends_at_once(run: Runner, tmp_path: Path, workers: int) -> None:
    (tmp_path / "count.json").write_text("40")
    evaluation = {"kind": "evaluate", "task": "count", "data": "data", "epoch_s": 3000}
    stages = {
        "only": {**evaluation, "checkpoint": "./count.json", "resources": {"workers": workers}}
    }
    outcome = run(stages, at="counting again", cancels=("only",))
    assert outcome.states == {"only": "cancelled"}
    assert outcome.errors == {}


def test_a_cancelled_run_ends_as_an_interrupted_one(run: Runner, tmp_path: Path) -> None:
    stages = {"only": LONG}
    with pytest.raises(InterruptedRunError, match="cancelled; finished stages and checkpoints"):
        run(stages, at="epoch 2/60", cancels=(WHOLE_RUN,))
    job = _job(tmp_path, stages)
    record = _record(job, open_store(job.store))
    assert record.state == "interrupted"
    assert run(stages).exit_code == 0
    assert len(_worked(tmp_path)) == len(set(_worked(tmp_path)))
