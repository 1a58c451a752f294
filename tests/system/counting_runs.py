"""A job of stages that only count, and what its runs left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from orchestrator.progress import Update
from orchestrator.results import load_results
from orchestrator.run import Outcome
from orchestrator.runs.last_run import load_last_run
from orchestrator.runs.record import RunRecord, load_record
from orchestrator.spec import Job, load_job
from orchestrator.store import open_store
from tests.orchestrator.counting import KINDS

JOB = """
name: counts
store: ./store
stages:
  search:
    kind: tune
    of: first
    space: {gain: {choice: [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]}}
    num_trials: 3
    resources: {workers: 1}
    initial: [{gain: 2.0}]
    algorithm: {name: random}
    scheduler: {name: none}
    overrides: {epochs: 2}
  first: {kind: count, data: data, params_from: search.best_params, epochs: 3, says: hello,
    resources: {workers: 2}}
  second: {kind: count, data: data, source: first.count, epochs: 1}
"""

Runner = Callable[..., tuple[Outcome, list[Update]]]


def counting_job(tmp_path: Path, text: str, *overrides: str) -> Job:
    if not (tmp_path / "data").exists():
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "content.txt").write_text("content")
    (tmp_path / "job.yaml").write_text(text)
    return load_job(tmp_path / "job.yaml", kinds=KINDS, overrides=overrides, base_dir=tmp_path)


def last_record(tmp_path: Path) -> RunRecord:
    """The record of the job's last run."""
    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)
    store = open_store(job.store)
    last = load_last_run(store, job.name)
    assert last is not None
    return load_record(store, last.run_id)


def worked_epochs(tmp_path: Path) -> list[str]:
    """The lines that the stages wrote, one for each epoch."""
    return (tmp_path / "data" / "worked.log").read_text().splitlines()


def totals(tmp_path: Path) -> dict[str, float]:
    """The metric of each finished stage."""
    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)
    results = load_results(job, open_store(job.store), kinds=KINDS)
    return {name: manifest.metrics[0].value for name, manifest in results.manifests.items()}


def one_stage(**fields: object) -> str:
    """A job with the stage `only`."""
    stage = {"kind": "count", "data": "data", **fields}
    return json.dumps({"name": "single", "store": "./store", "stages": {"only": stage}})
