"""What a stage takes from a search and from outside the job, and the errors if it does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.artifact import Artifact, Manifest
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.stage import _usable_counts, make_attempt
from orchestrator.errors import DataError, JobError
from orchestrator.plan import Plan
from orchestrator.planning import plan_job
from orchestrator.spec import load_job
from orchestrator.store import Store, open_store
from orchestrator.store.publish import publish_artifact, publish_manifest
from orchestrator.store.training import Training
from tests.orchestrator.counting import KINDS

JOB = """
name: searching
store: ./store
stages:
  first: {kind: count, data: data, resources: {workers: [2, 3]}}
  search: {kind: tune, of: first, space: {gain: {uniform: [1.0, 2.0]}}, num_trials: 2}
  second: {kind: count, data: data, params_from: search.best_params}
  third: {kind: count, data: data, source: search.best_checkpoint}
  outside: {kind: count, data: data, source: ./weights.json}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    (tmp_path / "weights.json").write_text("1")
    (tmp_path / "job.yaml").write_text(JOB)
    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)
    return plan_job(job, open_store(job.store))


@pytest.fixture
def store(plan: Plan) -> Store:
    return open_store(plan.job.store)


def _attempt(plan: Plan, name: str) -> Attempt:
    return make_attempt(plan, plan[name], open_store(plan.job.store), Training("train/key", 1), {})


def _finish_search(plan: Plan, **artifacts: Artifact) -> None:
    search = plan["search"]
    manifest = Manifest(
        key=search.key,
        stage="search",
        kind="tune",
        recipe=search.recipe,
        params={},
        artifacts=artifacts,
        metrics=(),
        provenance={},
    )
    publish_manifest(open_store(plan.job.store), manifest)


def _best_params(folder: Path, store: Store, **params: float) -> Artifact:
    (folder / "best").mkdir()
    (folder / "best" / "best_params.json").write_text(json.dumps(params))
    return publish_artifact(store, folder / "best")


def test_searched_values_replace_the_params(plan: Plan, store: Store, tmp_path: Path) -> None:
    _finish_search(plan, best_params=_best_params(tmp_path, store, gain=1.5))
    assert _attempt(plan, "second").params.model_dump()["gain"] == 1.5


def test_searched_values_that_do_not_fit_are_named(
    plan: Plan, store: Store, tmp_path: Path
) -> None:
    _finish_search(plan, best_params=_best_params(tmp_path, store, gain=-1.0))
    with pytest.raises(JobError) as caught:
        _attempt(plan, "second")
    first, *_, last = str(caught.value).splitlines()
    assert first.startswith(
        "stages.second: the values of search.best_params, {'gain': -1.0}, are not valid here: "
    )
    assert last.endswith("; remove params_from, or correct the space of the search")


def test_best_trial_without_a_model_is_an_error(plan: Plan) -> None:
    _finish_search(plan)
    with pytest.raises(
        JobError,
        match=r"^stages\.third: search\.best_checkpoint does not exist: the best trial of search "
        r"was stopped early and has no model; increase num_trials or set scheduler: \{name: none}$",
    ):
        _attempt(plan, "third")


def test_file_from_outside_is_noted_for_gc(plan: Plan, store: Store) -> None:
    _attempt(plan, "outside")
    note = store.read(f"train/{plan['outside'].key}/inputs.json")
    assert json.loads(note or b"") == {"names": store.names("blobs")}


def test_file_that_changed_after_the_plan_is_an_error(plan: Plan, tmp_path: Path) -> None:
    _attempt(plan, "outside")
    (tmp_path / "weights.json").write_text("2")
    with pytest.raises(
        DataError,
        match=rf"^{tmp_path}/weights\.json: changed after the run was planned; run the job again$",
    ):
        _attempt(plan, "outside")


def test_searched_params_must_fit_a_number_of_workers(plan: Plan) -> None:
    stage = plan.job.stages["first"]
    assert _usable_counts(stage, stage.params) == (2, 3)
    with pytest.raises(
        JobError,
        match=r"^stages\.first\.resources\.workers: no number of workers in .2, 3. fits the "
        "searched params, such as batch_size; change this range, or the search's space$",
    ):
        _usable_counts(stage, stage.params.overlay({"batch_size": 7}))
