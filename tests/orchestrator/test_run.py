"""What the loop of a run does about errors, and what it counts for the live metrics.

tests/system/test_run.py has whole runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from orchestrator.artifact import Manifest
from orchestrator.errors import ClusterError, DivergedError, StageError
from orchestrator.monitoring.tally import Tally
from orchestrator.plan import Verdict
from orchestrator.planning import plan_job
from orchestrator.process import Signals
from orchestrator.progress import Progress
from orchestrator.run import Run, new_run_id
from orchestrator.runs.journal import open_journal
from orchestrator.runs.ownership import OwnedStages
from orchestrator.schedule import Start, State
from orchestrator.spec import load_job
from orchestrator.store import open_store
from orchestrator.store.lease import take_lease
from orchestrator.store.publish import manifest_name, publish_manifest
from tests.orchestrator.counting import KINDS

JOB = {"name": "single", "stages": {"only": {"kind": "count", "data": "data"}}}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that has not begun."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    (tmp_path / "job.yaml").write_text(json.dumps({**JOB, "store": str(tmp_path / "store")}))
    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)
    store = open_store(job.store)
    plan = plan_job(job, store)
    journal = open_journal(store, plan, run_id="now")
    progress = Progress(journal, lambda _: None, Tally({"only": "total"}))
    return Run(plan, store, progress, OwnedStages(store, "now", job.name))


@pytest.fixture
def far_east() -> Iterator[None]:
    """A time zone 14 hours ahead of UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "<+14>-14")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_east")
def test_ids_of_runs_sort_by_time_across_time_zones() -> None:
    began_at = datetime.strptime(new_run_id()[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - began_at) < timedelta(hours=1)


@pytest.mark.parametrize(("error", "count"), [(DivergedError("NaN"), 1), (StageError("bug"), 0)])
def test_only_diverged_training_counts_as_a_loss_that_is_not_finite(
    run: Run, error: StageError, count: int
) -> None:
    run._record_end(Start(run.plan.stages[0], {}, slots=1), error)
    readings = run.progress.tally.readings(run.journal.record, now_s=0, has_ended=False)
    assert [one.value for one in readings if one.name == "nonfinite_losses"] == [count]


LOSS = "Ray's raylet on this machine was killed by SIGKILL; the same command resumes"


def test_failed_cluster_is_reported_instead_of_the_error_of_ray(run: Run) -> None:
    def fail() -> NoReturn:
        raise RuntimeError("RPC error")

    cluster: Any = SimpleNamespace(loss=lambda: LOSS, machines=fail)
    with pytest.raises(ClusterError, match=f"^{LOSS}$"):
        run._loop_until_lost(cluster, Signals())


def test_failed_cluster_ends_the_wait_for_its_stages(run: Run) -> None:
    run.loss = lambda: LOSS
    unused: Any = None
    with pytest.raises(ClusterError, match=f"^{LOSS}$"):
        run._await_news(unused, unused)


def _with_result(run: Run) -> Run:
    """The same run, planned after its stage was finished."""
    (planned,) = run.plan.stages
    manifest = Manifest(
        key=planned.key,
        stage="only",
        kind="count",
        recipe=planned.recipe,
        params={},
        artifacts={},
        metrics=(),
        provenance={},
    )
    publish_manifest(run.store, manifest)
    return replace(run, plan=plan_job(run.plan.job, run.store))


def test_reuse_deletes_the_resume_state_that_a_killed_driver_left(run: Run) -> None:
    reusing = _with_result(run)
    key = reusing.plan.stages[0].key
    for name in (f"train/{key}/runs/killed", "train/other/runs/x"):
        run.store.write(name, b"")
    reusing._reuse()
    assert reusing.journal.states == {"only": State.REUSED}
    assert run.store.names("train") == ["train/other/runs/x"]


def test_resume_state_of_a_stage_that_another_run_works_on_stays(run: Run) -> None:
    """That run has the stage's former result, and has not noticed it yet."""
    reusing = _with_result(run)
    key = reusing.plan.stages[0].key
    run.store.write(f"train/{key}/runs/other", b"")
    store = run.store
    lease = OwnedStages(store, "other", "single")._lease("only", key, token=1)
    take_lease(store, lease)
    reusing._reuse()
    assert store.names("train") == [f"train/{key}/runs/other"]


def test_stage_whose_result_was_just_deleted_runs_again(run: Run) -> None:
    reusing = _with_result(run)
    assert reusing.plan.stages[0].verdict is Verdict.REUSE
    run.store.delete(manifest_name(reusing.plan.stages[0].key))
    reusing._reuse()
    assert reusing.journal.states == {"only": State.WAITING}
