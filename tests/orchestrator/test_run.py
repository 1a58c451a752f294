"""Whole runs of small jobs on a real cluster: order, reuse, failures, kills."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import ClusterError, DataError, StageError
from orchestrator.history import load_results, plan_job
from orchestrator.run import Outcome, Update, run_plan
from orchestrator.spec import load_job
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
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")

    def run_job(*overrides: str, text: str = JOB, only: tuple[str, ...] = ()) -> tuple[Outcome, list[Update]]:
        (tmp_path / "job.yaml").write_text(text)
        job = load_job(tmp_path / "job.yaml", kinds=KINDS, overrides=overrides, base_dir=tmp_path)
        store = open_store(job.store)
        heard: list[Update] = []
        outcome = run_plan(plan_job(job, store), store, only=only, address=cluster_address, watch=heard.append)
        return outcome, heard

    return run_job


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

    worked = _worked(tmp_path)
    outcome, _ = run()
    assert set(outcome.states.values()) == {"reused"}
    assert _worked(tmp_path) == worked


def test_a_worker_killed_with_9_costs_no_epoch_that_was_reported(run: Runner, tmp_path: Path) -> None:
    text = _single(epochs=4, dies_after=2, resources={"workers": 2})
    outcome, heard = run(text=text)
    assert outcome.exit_code == 0
    assert _worked(tmp_path) == [f"gain 1 epoch {epoch}" for epoch in (1, 2, 3, 4)]
    assert any("lost worker" in update.event.text and "attempt 2 of 3" in update.event.text for update in heard)


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


def test_a_run_leaves_its_events_and_record_in_the_store(run: Runner, tmp_path: Path) -> None:
    run(text=_single(epochs=2))
    (record,) = (tmp_path / "store" / "runs").glob("*/run.json")
    assert json.loads(record.read_text())["stages"]["only"]["state"] == "done"
    lines = "".join(path.read_text() for path in sorted(record.parent.glob("events/*.jsonl"))).splitlines()
    texts = [json.loads(line)["event"]["text"] for line in lines]
    assert texts[0].startswith("running: ")
    assert "epoch 2/2" in texts
    assert texts[-1] == "done: total 2.00"


EVALUATED = """
name: evaluated
store: ./store
stages:
  search: {kind: tune, of: first, space: {gain: {choice: [2.0]}}, num_trials: 1, overrides: {epochs: 1}}
  first: {kind: count, data: data, params_from: search.best_params, epochs: 3}
  measured: {kind: evaluate, of: first, overrides: {epochs: 9}, resources: {workers: 2}}
  outside: {kind: evaluate, task: count, data: data, checkpoint: ./count.json}
"""


def test_an_evaluation_measures_a_finished_model_and_a_second_run_reuses_it(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "count.json").write_text("40")
    outcome, heard = run(text=EVALUATED)
    assert outcome.errors == {}
    assert _totals(tmp_path) == {"search": 2.0, "first": 6.0, "measured": 10 * 2.0 * 6.0, "outside": 400.0}
    assert any(update.stage == "measured" and update.event.text == "counting again" for update in heard)

    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)
    manifest = load_results(job, open_store(job.store), kinds=KINDS).manifests["measured"]
    assert (manifest.kind, manifest.recipe["measures"]) == ("evaluate", {"kind": "count", "version": 1})
    assert (manifest.params["gain"], manifest.params["epochs"]) == (2.0, 9)
    assert (manifest.artifacts, manifest.metrics[0].num_samples) == ({}, 2)
    assert manifest.provenance["device"]
    assert set(run(text=EVALUATED)[0].states.values()) == {"reused"}


def _outside(tmp_path: Path, bucket: str, kind: str) -> str:
    """A file with the count 40, outside the job."""
    file = tmp_path / "count.json"
    file.write_text("40")
    if kind == "file":
        return str(file)
    open_store(f"s3://{bucket}/old").upload("count.json", file)
    return f"s3://{bucket}/old/count.json"


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_file_from_outside_is_an_input_by_its_bytes(run: Runner, tmp_path: Path, bucket: str, kind: str) -> None:
    place = _outside(tmp_path, bucket, kind)
    text = _single(epochs=2, source=place)
    run(text=text)
    assert _totals(tmp_path) == {"only": 42.0}
    digest = hashlib.sha256(b"40").hexdigest()
    assert (tmp_path / "store" / "blobs" / "sha256" / digest[:2] / digest).read_text() == "40"
    outcome, heard = run(text=text)
    assert outcome.states == {"only": "reused"}

    moved = tmp_path / "moved" / "count.json"
    moved.parent.mkdir()
    moved.write_text("40")
    assert run(text=_single(epochs=2, source=str(moved)))[0].states == {"only": "reused"}
    moved.write_text("50")
    outcome, heard = run(text=_single(epochs=2, source=str(moved)))
    assert heard[0].event.text == "its input source changed"
    assert _totals(tmp_path) == {"only": 52.0}


def test_a_file_from_outside_that_is_missing_is_named(run: Runner, tmp_path: Path, bucket: str) -> None:
    with pytest.raises(DataError, match=rf"stages\.only: {tmp_path}/none\.pth: the file cannot be read: No such file"):
        run(text=_single(source=str(tmp_path / "none.pth")))
    with pytest.raises(DataError, match=rf"stages\.only: s3://{bucket}/none\.pth: there is no such object"):
        run(text=_single(source=f"s3://{bucket}/none.pth"))


def test_a_whole_run_keeps_all_it_has_in_s3(run: Runner, tmp_path: Path, bucket: str) -> None:
    text = JOB.replace("./store", f"s3://{bucket}/jobs")
    outcome, _ = run(text=text)
    assert outcome.exit_code == 0
    assert _totals(tmp_path)["second"] == 1 + _totals(tmp_path)["first"]
    assert not (tmp_path / "store").exists()
    assert set(run(text=text)[0].states.values()) == {"reused"}
