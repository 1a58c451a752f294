"""What a search passes to its trials: the template's params, its own metric, one log per trial."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.stage import make_attempt
from orchestrator.cluster.worker import _logbook
from orchestrator.plan import Plan, PlannedStage
from orchestrator.spec import Job, load_job
from orchestrator.store import Store, open_store
from orchestrator.store.training import Training
from orchestrator.store.trial_logs import TrialLog, save_log
from pipelines import KINDS

JOB = """
name: searching
store: ./store
stages:
  pretrain: {kind: pretrain, data: imagenet, model: cat_small, keep_best: 4}
  search: {kind: tune, of: pretrain, space: {lr: {uniform: [1.0e-5, 1.0e-4]}}, num_trials: 2,
    metric: top5}
"""

TRAINING = Training("training", 1)


def _job(folder: Path) -> Job:
    (folder / "job.yaml").write_text(JOB)
    return load_job(folder / "job.yaml", kinds=KINDS, published={}, base_dir=folder)


def _attempt(job: Job, name: str) -> Attempt:
    stage = job.stages[name]
    planned = SimpleNamespace(
        stage=stage, name=name, key="a" * 64, recipe={"inputs": {}, "data": "d"}
    )
    plan, store = SimpleNamespace(job=job), SimpleNamespace(uri=job.store)
    return make_attempt(
        cast(Plan, plan),
        cast(PlannedStage, planned),
        cast(Store, store),
        TRAINING,
        provenance={},
    )


def test_trials_keep_only_the_newest_checkpoint(tmp_path: Path) -> None:
    job = _job(tmp_path)
    pretrain, search = (_attempt(job, name) for name in ("pretrain", "search"))
    assert pretrain.keep_best == 4
    assert pretrain.metric == "top1"
    assert search.keep_best == 0
    assert search.metric == "top5"
    assert search.params == job.stages["pretrain"].params


def test_only_rank_0_of_a_group_writes_the_trial_log(tmp_path: Path) -> None:
    save_log(open_store(str(tmp_path)), TRAINING, TrialLog(number=1, params={}, drawn_after_s=0))
    for trial, rank, is_kept in (("00001", 0, True), ("00001", 1, False), (None, 0, False)):
        attempt: Any = SimpleNamespace(
            trial=trial, store_uri=str(tmp_path), training=TRAINING, metric="top1"
        )
        worker: Any = SimpleNamespace(rank=rank)
        assert (_logbook(attempt, worker) is not None) == is_kept


IMPORTS = """
import sys, threading
sys.setswitchinterval(1e-6)
from orchestrator.store.training import Training
from orchestrator.cluster.stage import _import_group, _import_search
both = threading.Barrier(2)
threads = [
    threading.Thread(target=lambda load=load: (both.wait(), load()))
    for load in (_import_group, _import_search)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_a_group_and_a_search_can_start_at_the_same_time() -> None:
    """Without a lock, Ray's modules import each other while the other thread has them half done."""
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "Error" not in done.stderr
