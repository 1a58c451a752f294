"""Whole runs of small jobs on a real cluster: order, reuse, failures, kills."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import ray.util

from orchestrator.errors import ClusterError, DataError, StageError
from orchestrator.history import load_last_run, load_results, plan_job
from orchestrator.record import RunRecord, load_record
from orchestrator.run import Outcome, Update, run_plan
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
    space: {gain: {choice: [1.0, 2.0, 3.0]}}
    num_trials: 3
    algorithm: random
    overrides: {epochs: 2}
  first: {kind: count, data: data, params_from: search.best_params, epochs: 3, resources: {workers: 2}}
  second: {kind: count, data: data, source: first.count, epochs: 1}
"""

Runner = Callable[..., tuple[Outcome, list[Update]]]


@pytest.fixture
def run(tmp_path: Path, cluster_address: str) -> Runner:
    """Runs JOB with overrides; returns its outcome and what a watcher heard."""

    def run_job(*overrides: str, text: str = JOB, only: tuple[str, ...] = ()) -> tuple[Outcome, list[Update]]:
        job = _counting_job(tmp_path, text, *overrides)
        store = open_store(job.store)
        heard: list[Update] = []
        outcome = run_plan(plan_job(job, store), store, only=only, address=cluster_address, watch=heard.append)
        return outcome, heard

    return run_job


def _counting_job(tmp_path: Path, text: str, *overrides: str) -> Job:
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "content.txt").write_text("content")
    (tmp_path / "job.yaml").write_text(text)
    return load_job(tmp_path / "job.yaml", kinds=KINDS, overrides=overrides, base_dir=tmp_path)


def _record(tmp_path: Path) -> RunRecord:
    """The record of the job's last run."""
    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)
    store = open_store(job.store)
    last = load_last_run(store, job.name)
    assert last is not None
    return load_record(store, last.run_id)


def _worked(tmp_path: Path) -> list[str]:
    return (tmp_path / "data" / "worked.log").read_text().splitlines()


def _totals(tmp_path: Path) -> dict[str, float]:
    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)
    results = load_results(job, open_store(job.store), kinds=KINDS)
    return {name: manifest.metrics[0].value for name, manifest in results.manifests.items()}


def _single(**fields: object) -> str:
    stage = {"kind": "count", "data": "data", **fields}
    return json.dumps({"name": "single", "store": "./store", "stages": {"only": stage}})


def test_a_run_searches_trains_and_passes_outputs_on_and_a_second_run_reuses_all(run: Runner, tmp_path: Path) -> None:
    outcome, heard = run()
    assert outcome.exit_code == 0
    best = max(float(line.split()[1]) for line in _worked(tmp_path) if line.endswith("epoch 2"))
    assert _totals(tmp_path)["search"] == 2 * best
    assert _totals(tmp_path)["first"] == 3 * best
    assert _totals(tmp_path)["second"] == 1 + 3 * best
    assert any(update.stage == "first" and update.event.text == "epoch 3/3" for update in heard)
    search = _record(tmp_path).stages["search"]
    assert (search.newest and search.newest.done, search.total, search.metrics) == (3, 3, {"total": 2 * best})

    worked = _worked(tmp_path)
    outcome, _ = run()
    assert set(outcome.states.values()) == {"reused"}
    assert _worked(tmp_path) == worked
    assert _record(tmp_path).stages["search"].metrics == {"total": 2 * best}


def test_a_worker_killed_with_9_costs_no_epoch_that_was_reported(run: Runner, tmp_path: Path) -> None:
    text = _single(epochs=4, dies_after=2, resources={"workers": 2})
    outcome, heard = run(text=text)
    assert outcome.exit_code == 0
    assert _worked(tmp_path) == [f"gain 1 epoch {epoch}" for epoch in (1, 2, 3, 4)]
    assert any("lost worker" in update.event.text and "attempt 2 of 3" in update.event.text for update in heard)
    stage = _record(tmp_path).stages["only"]
    (lost,) = stage.lost_attempts
    assert (stage.attempt, lost.attempt, lost.why.startswith("lost worker 1: ")) == (2, 1, True)
    assert stage.first is not None
    assert stage.first.done > 2


def test_wrong_data_end_a_stage_at_once_with_the_pipelines_own_words(run: Runner, tmp_path: Path) -> None:
    outcome, heard = run(text=_single(fails="wrong_data"))
    error = outcome.errors["only"]
    assert isinstance(error, DataError)
    assert str(error) == f"{tmp_path}/data/content.txt: is not to my taste"
    assert outcome.exit_code == 2
    assert not any("attempt 2" in update.event.text for update in heard)


def test_a_bug_fails_its_stage_and_blocks_its_dependants_alone(run: Runner, tmp_path: Path) -> None:
    job = json.loads(_single(fails="bug"))
    job["stages"]["next"] = {"kind": "count", "data": "data", "source": "only.count"}
    job["stages"]["other"] = {"kind": "count", "data": "data", "gain": 7.0, "epochs": 1}
    outcome, _ = run(text=json.dumps(job))
    assert outcome.states == {"only": "failed", "next": "blocked", "other": "done"}
    assert isinstance(outcome.errors["only"], StageError)
    assert "ZeroDivisionError: a bug" in str(outcome.errors["only"])
    assert outcome.exit_code == 1
    assert _totals(tmp_path) == {"other": 7.0}


def test_only_runs_a_stage_with_what_it_needs(run: Runner, tmp_path: Path) -> None:
    job = json.loads(_single(epochs=1))
    job["stages"]["next"] = {"kind": "count", "data": "data", "source": "only.count", "epochs": 1}
    job["stages"]["other"] = {"kind": "count", "data": "data", "gain": 7.0}
    outcome, _ = run(text=json.dumps(job), only=("next",))
    assert outcome.states == {"only": "done", "next": "done"}


def test_resources_that_the_cluster_never_has_are_refused_at_once(run: Runner) -> None:
    expected = r"only: asks for 64 workers with 1 CPUs each, and the cluster has 4 CPUs: 4 of them fit"
    with pytest.raises(ClusterError, match=expected):
        run(text=_single(resources={"workers": 64}))


def test_a_search_over_groups_of_workers_finds_the_best_trial(run: Runner, tmp_path: Path) -> None:
    text = JOB.replace("num_trials: 3", "num_trials: 2\n    resources: {workers: 2}")
    outcome, _ = run(text=text, only=("search",))
    assert outcome.exit_code == 0
    gains = {float(line.split()[1]) for line in _worked(tmp_path)}
    assert _totals(tmp_path)["search"] == 2 * max(gains)


def test_a_search_that_goes_on_counts_what_an_earlier_run_finished(run: Runner, tmp_path: Path) -> None:
    run(only=("search",))
    before = _record(tmp_path).stages["search"]
    (tmp_path / "store" / "manifests" / f"{before.key}.json").unlink()
    outcome, heard = run(only=("search",))
    assert outcome.exit_code == 0
    (began,) = (update.event for update in heard if "trials finished" in update.event.text)
    assert (began.text.split(",")[0], began.done, began.metrics) == ("3 of 3 trials finished", 3, before.metrics)


def test_a_run_leaves_its_events_and_record_in_the_store(run: Runner, tmp_path: Path) -> None:
    run(text=_single(epochs=2))
    (record,) = (tmp_path / "store" / "runs").glob("*/run.json")
    assert json.loads(record.read_text())["stages"]["only"]["state"] == "done"
    lines = "".join(path.read_text() for path in sorted(record.parent.glob("events/*.jsonl"))).splitlines()
    texts = [json.loads(line)["event"]["text"] for line in lines]
    assert texts[0].startswith("running: ")
    assert "epoch 2/2" in texts
    assert texts[-1] == "done: total 2.00"


def test_the_record_says_why_a_run_failed_as_a_whole(run: Runner, tmp_path: Path) -> None:
    with pytest.raises(ClusterError) as caught:
        run(text=_single(resources={"workers": 64}))
    record = _record(tmp_path)
    assert (record.state, record.error) == ("failed", str(caught.value))


def test_the_actor_that_carries_events_is_named_after_the_run(tmp_path: Path, cluster_address: str) -> None:
    """Two runs on one cluster never meet in it: their run ids differ."""
    job = _counting_job(tmp_path, _single(epochs=1))
    actors: list[dict[str, str]] = []

    def watch(update: Update) -> None:
        if update.event.text.startswith("epoch"):
            actors.extend(ray.util.list_named_actors(all_namespaces=True))

    store = open_store(job.store)
    run_plan(plan_job(job, store), store, only=(), address=cluster_address, watch=watch)
    assert {"name": f"events-{_record(tmp_path).run_id}", "namespace": "orchestrator"} in actors
