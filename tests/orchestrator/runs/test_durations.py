"""Durations of the last run: from its manifests, with few requests, and never an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import JsonValue

from orchestrator.errors import StoreError
from orchestrator.plan import Plan
from orchestrator.planning import plan_job
from orchestrator.runs.durations import load_durations
from orchestrator.runs.last_run import last_run_name, write_last_run
from orchestrator.spec import load_job
from orchestrator.store import Store, open_store
from orchestrator.store.publish import manifest_name, publish_manifest
from tests.orchestrator.counting import KINDS
from tests.orchestrator.manifests import bare_manifest

JOB = """
name: counts
store: ./store
stages:
  first: {kind: count, data: data}
  second: {kind: count, data: data, source: first.count}
  third: {kind: count, data: data, gain: 2.0}
"""
NAMES = ("first", "second", "third", "unheard_of")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    (tmp_path / "job.yaml").write_text(JOB)
    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)
    return plan_job(job, open_store(job.store))


@pytest.fixture
def store(plan: Plan, store_uri: str) -> Store:
    """A store in which the job has run."""
    store = open_store(store_uri)
    write_last_run(store, plan, run_id="r1")
    return store


def _publish(store: Store, plan: Plan, name: str, attempts: JsonValue) -> None:
    manifest = bare_manifest(plan[name].key, "r1")
    provenance = {**manifest.provenance, "attempts": attempts}
    publish_manifest(store, manifest.model_copy(update={"provenance": provenance}))


def _attempt(began_at_s: float, ended_at_s: float) -> dict[str, JsonValue]:
    return {"workers": 4, "began_at_s": began_at_s, "ended_at_s": ended_at_s}


def test_duration_is_the_sum_of_the_attempts(plan: Plan, store: Store) -> None:
    _publish(store, plan, "first", [_attempt(100.0, 160.0), _attempt(1000.0, 1030.5)])
    _publish(store, plan, "second", [_attempt(0, 5)])
    assert load_durations(store, "counts", NAMES) == {"first": 90.5, "second": 5.0}
    assert load_durations(store, "counts", ["second"]) == {"second": 5.0}


def test_a_job_without_a_last_run_has_no_durations(plan: Plan, store: Store) -> None:
    assert load_durations(store, "another", NAMES) == {}


@pytest.mark.parametrize(
    "attempts",
    [None, "none", [], [3], [{"began_at_s": 1.0}], [{"began_at_s": "1", "ended_at_s": "2"}]],
)
def test_a_stage_without_a_closed_attempt_is_absent(
    plan: Plan, tmp_path: Path, attempts: JsonValue
) -> None:
    store = open_store(str(tmp_path / "store"))
    write_last_run(store, plan, run_id="r1")
    _publish(store, plan, "first", attempts)
    _publish(store, plan, "third", [_attempt(3.0, 1.0)])
    assert load_durations(store, "counts", NAMES) == {"third": 0.0}


def test_damaged_records_leave_out_only_their_stages(plan: Plan, store: Store) -> None:
    _publish(store, plan, "third", [_attempt(0, 7)])
    store.write(manifest_name(plan["first"].key), b"{")
    assert load_durations(store, "counts", NAMES) == {"third": 7.0}
    store.write(last_run_name("counts"), b"[]")
    assert load_durations(store, "counts", NAMES) == {}


class Silent:
    """A store that fails after some reads, and counts them."""

    def __init__(self, store: Store, answers: int) -> None:
        self.uri, self.reads = store.uri, 0
        self._store, self._answers = store, answers

    def read(self, name: str) -> bytes | None:
        self.reads += 1
        if self.reads > self._answers:
            raise StoreError(f"store {self.uri}: no answer")
        return self._store.read(name)


def test_each_stage_is_read_once(plan: Plan, store: Store) -> None:
    _publish(store, plan, "first", [_attempt(0, 7)])
    counting = Silent(store, answers=99)
    load_durations(counting, "counts", NAMES)  # type: ignore[arg-type]
    assert counting.reads == 1 + len(plan.stages)


@pytest.mark.parametrize("answers", [0, 1])
def test_a_store_that_does_not_answer_is_asked_no_further(
    plan: Plan, store: Store, answers: int
) -> None:
    silent = Silent(store, answers=answers)
    assert load_durations(silent, "counts", NAMES) == {}  # type: ignore[arg-type]
    assert silent.reads == answers + 1
