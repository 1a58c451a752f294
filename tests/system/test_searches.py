"""Whole searches on a real cluster: failed and killed trials, rungs, groups, resumption."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.cluster import stage as stage_module
from orchestrator.errors import JobError
from orchestrator.results import load_results
from orchestrator.spec import load_job
from orchestrator.store import open_store
from orchestrator.store.publish import fetch_artifact
from orchestrator.trials import TRIALS_FILE, Trials
from tests.orchestrator.counting import KINDS
from tests.system.counting_runs import (
    JOB,
    Runner,
    last_record,
    totals,
    worked_epochs,
)


def _search(**fields: object) -> str:
    """A job with a search over the stage `only`, and a stage that starts from its best trial."""
    stages = {
        "search": {
            "kind": "tune",
            "of": "only",
            "algorithm": {"name": "grid"},
            "scheduler": {"name": "none"},
            **fields,
        },
        "only": {"kind": "count", "data": "data", "epochs": 2},
        "next": {"kind": "count", "data": "data", "epochs": 1, "source": "search.best_checkpoint"},
    }
    return json.dumps({"name": "searched", "store": "./store", "stages": stages})


def _trials(tmp_path: Path) -> Trials:
    """The trials that the job's search published."""
    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)
    store = open_store(job.store)
    artifact = load_results(job, store, kinds=KINDS).manifests["search"].artifacts["trials"]
    folder = fetch_artifact(store, artifact, tmp_path / "fetched")
    assert pq.read_table(folder / "trials.parquet").num_rows == len(
        json.loads((folder / TRIALS_FILE).read_text())["trials"]
    )
    return Trials.model_validate_json((folder / TRIALS_FILE).read_text())


def test_failed_trials_are_reported_and_the_search_continues(run: Runner, tmp_path: Path) -> None:
    text = _search(
        scheduler={"name": "none"},
        space={"fails": {"choice": ["wrong_data", "no", "bug"]}, "gain": {"choice": [2.0]}},
    )
    outcome, _ = run(text=text, only=("next",))
    assert outcome.errors == {}
    bad, good, bug = _trials(tmp_path).trials
    assert bad.state == "failed"
    assert bad.curve == ()
    assert good.state == "finished"
    assert bug.state == "failed"
    assert [error and error.split(":")[-1] for error in (bad.error, good.error, bug.error)] == [
        " is not to my taste",
        None,
        " a bug",
    ]
    assert [(point.epoch, point.value) for point in good.curve] == [(1, 2.0), (2, 4.0)]
    assert good.value == 4.0
    assert good.num_samples == 2
    assert good.params == {"fails": "no", "gain": 2.0}
    assert good.duration_s > 0
    assert totals(tmp_path)["next"] == 4.0 + 1.0  # it counts from the best trial's model
    assert len(worked_epochs(tmp_path)) == 3


def test_a_search_whose_trials_all_lack_data_is_a_job_error(run: Runner) -> None:
    outcome, _ = run(text=_search(space={"fails": {"choice": ["wrong_data"]}}), only=("search",))
    assert isinstance(outcome.errors["search"], JobError)
    told = str(outcome.errors["search"])
    assert told.startswith("no trial has a value of total: 1 failed, the first with: ")
    assert told.endswith(
        "is not to my taste; fix the job, or repeat the same trials with --force search"
    )


@pytest.mark.slow
def test_each_run_gives_a_killed_trial_three_attempts(run: Runner, tmp_path: Path) -> None:
    text = _search(space={"gain": {"choice": [3.0]}}).replace('"epochs": 2', '"epochs": 9')
    outcome, _ = run("stages.only.num_deaths=99", text=text, only=("search",))
    told = str(outcome.errors["search"])
    assert "lost its process in each of 3 attempts; run again to resume the lost trials" in told
    assert len((tmp_path / "data" / "deaths.log").read_text().splitlines()) == 3
    outcome, _ = run("stages.only.num_deaths=5", text=text, only=("search",))
    assert outcome.errors == {}
    (trial,) = _trials(tmp_path).trials
    assert trial.state == "finished"
    assert trial.value == 27.0
    assert trial.epoch == 9


def test_trials_finish_with_a_rung_at_the_last_epoch(run: Runner, tmp_path: Path) -> None:
    asha = {"name": "asha", "grace_period": 2}
    text = _search(space={"gain": {"choice": [3.0, 2.0]}}, scheduler=asha, max_concurrent=1)
    outcome, _ = run(text=text, only=("search",))
    assert outcome.errors == {}
    assert [(trial.value, trial.state) for trial in _trials(tmp_path).trials] == [
        (6.0, "finished"),
        (4.0, "finished"),
    ]


@pytest.mark.slow
def test_a_search_with_worker_groups_finds_the_best_trial(run: Runner, tmp_path: Path) -> None:
    text = JOB.replace("num_trials: 3\n    resources: {workers: 1}", "num_trials: 2")
    outcome, _ = run(text=text, only=("search",))
    assert outcome.exit_code == 0
    gains = {float(line.split()[1]) for line in worked_epochs(tmp_path)}
    assert totals(tmp_path)["search"] == 2 * max(gains)


def test_a_resumed_search_counts_earlier_trials(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:  # at its last step
        killed.setattr(stage_module, "clear_training", lambda *_: None)
        run(only=("search",))
    before = last_record(tmp_path).stages["search"]
    (tmp_path / "store" / "manifests" / f"{before.key}.json").unlink()
    outcome, heard = run(only=("search",))
    assert outcome.exit_code == 0
    (began,) = (update.event for update in heard if "trials finished" in update.event.text)
    assert began.text.split(",")[0] == "3 of 3 trials finished"
    assert began.done == 3
    assert began.metrics == before.metrics
