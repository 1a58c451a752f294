"""Status: rows are made from a run's record and the clock, with both kinds of store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.artifact import Manifest, Metric
from orchestrator.contract import Event
from orchestrator.errors import IntegrityError
from orchestrator.plan import Plan
from orchestrator.planning import plan_job
from orchestrator.runs.journal import open_journal
from orchestrator.runs.last_run import last_run_name, write_last_run
from orchestrator.runs.record import (
    ProgressMark,
    RunRecord,
    RunState,
    StageEvent,
    StageRecord,
    record_name,
)
from orchestrator.runs.status import (
    LOST_AFTER_S,
    StageStatus,
    Status,
    eta_s,
    load_status,
    make_status,
)
from orchestrator.schedule import State
from orchestrator.spec import Job, load_job
from orchestrator.store import Store, open_store
from orchestrator.store.publish import publish_manifest
from tests.orchestrator.counting import KINDS

JOB = """
name: counts
store: ./store
stages:
  first: {kind: count, data: data}
  second: {kind: count, data: data, source: first.count}
  third: {kind: count, data: data, gain: 2.0}
"""
NOW_S = 10_000.0


def _load_job(folder: Path, store: str | None = None) -> Job:
    (folder / "data").mkdir()
    (folder / "data" / "content.txt").write_text("content")
    (folder / "job.yaml").write_text(JOB)
    return load_job(folder / "job.yaml", kinds=KINDS, store=store, base_dir=folder)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return _load_job(tmp_path)


def _stage(state: State, **fields: object) -> StageRecord:
    return StageRecord.model_validate({"kind": "count", "key": "a" * 64, "state": state, **fields})


def _status(
    job: Job,
    stages: Mapping[str, StageRecord],
    *,
    state: RunState = RunState.RUNNING,
    heard_s_ago: float = 3.0,
) -> Status:
    record = RunRecord(
        run_id="r",
        job="counts",
        state=state,
        began_at_s=0,
        heard_at_s=NOW_S - heard_s_ago,
        stages=stages,
    )
    return make_status(job, record, others={}, now_s=NOW_S)


def _states(status: Status) -> list[str]:
    return [status.state, *(row.state for row in status.stages)]


def _row(status: Status, stage: str) -> StageStatus:
    return next(row for row in status.stages if row.stage == stage)


STAGES = {
    "first": _stage(State.RUNNING, attempt=1),
    "second": _stage(State.WAITING),
    "third": _stage(State.DONE, attempt=1),
}


def test_run_with_a_recent_record_is_running(job: Job) -> None:
    assert _states(_status(job, STAGES, heard_s_ago=LOST_AFTER_S)) == [
        "running",
        "running",
        "waiting",
        "done",
    ]


def test_silent_run_is_lost_with_its_stage(job: Job) -> None:
    status = _status(job, STAGES, heard_s_ago=LOST_AFTER_S + 1)
    assert _states(status) == ["lost", "lost", "waiting", "done"]
    assert status.heard_s_ago == LOST_AFTER_S + 1


def test_ended_run_is_never_lost(job: Job) -> None:
    assert (
        _states(_status(job, {"third": STAGES["third"]}, state=RunState.DONE, heard_s_ago=1e6))[0]
        == "done"
    )


@pytest.mark.parametrize("state", [RunState.INTERRUPTED, RunState.FAILED])
def test_running_stage_of_an_ended_run_is_interrupted(job: Job, state: RunState) -> None:
    assert _states(_status(job, STAGES, state=state)) == [state, "interrupted", "waiting", "done"]


def test_slow_clock_results_in_no_negative_age(job: Job) -> None:
    status = _status(
        job, {"first": _stage(State.RUNNING, attempt=1, heard_at_s=NOW_S + 5)}, heard_s_ago=-5
    )
    assert status.heard_s_ago == 0
    assert _row(status, "first").heard_s_ago == 0


def test_row_has_progress_eta_event_and_its_age(job: Job) -> None:
    stage = _stage(
        State.RUNNING,
        attempt=2,
        first={"done": 10, "time_s": NOW_S - 100},
        newest={"done": 20, "time_s": NOW_S - 4},
        total=30,
        event="epoch 20/30",
        heard_at_s=NOW_S - 4,
    )
    row = _row(_status(job, {"first": stage}), "first")
    assert row.attempt == 2
    assert row.done == 20
    assert row.total == 30
    assert row.event == "epoch 20/30"
    assert row.heard_s_ago == 4
    assert row.eta_s == pytest.approx(96 - 4)


def test_only_a_running_stage_has_an_eta(job: Job) -> None:
    marks = {"first": {"done": 1, "time_s": 0}, "newest": {"done": 2, "time_s": 10}, "total": 30}
    status = _status(
        job, {"first": _stage(State.RUNNING, attempt=1, **marks)}, state=RunState.INTERRUPTED
    )
    assert _row(status, "first").eta_s is None


def test_finished_stage_is_complete_without_its_last_event(job: Job) -> None:
    stage = _stage(State.DONE, attempt=1, newest={"done": 2, "time_s": 0}, total=3)
    assert _row(_status(job, {"first": stage}), "first").done == 3
    assert stage.total == 3


@pytest.mark.parametrize(
    ("state", "waits_for"),
    [(RunState.RUNNING, "needs first"), (RunState.INTERRUPTED, None), (RunState.FAILED, None)],
)
def test_stage_waits_only_while_its_run_runs(
    job: Job, state: RunState, waits_for: str | None
) -> None:
    waiting = _stage(State.WAITING, waits_for="needs first")
    assert _row(_status(job, {"second": waiting}, state=state), "second").waits_for == waits_for


def test_metrics_of_the_kind_are_listed_first(job: Job) -> None:
    stage = _stage(State.RUNNING, attempt=1, metrics={"epoch": 1.0, "total": 2.0, "loss": 0.1})
    status = _status(job, {"first": stage})
    assert list(_row(status, "first").metrics) == ["total", "epoch", "loss"]


def test_status_lists_stages_removed_from_the_job_last(job: Job) -> None:
    status = _status(job, {"renamed": _stage(State.RUNNING, attempt=1), "third": STAGES["third"]})
    assert [row.stage for row in status.stages] == ["first", "second", "third", "renamed"]
    assert [row.event for row in status.stages][:2] == ["it has not run yet", "it has not run yet"]


def test_eta_follows_the_pace_of_this_attempt() -> None:
    first, newest = ProgressMark(done=1, time_s=100), ProgressMark(done=3, time_s=160)
    assert eta_s(first, newest, 10, now_s=160) == 7 * 30
    assert eta_s(first, newest, 10, now_s=190) == 7 * 30 - 30


def test_resumed_progress_does_not_count_for_the_pace() -> None:
    resumed = ProgressMark(done=241, time_s=100)
    assert eta_s(resumed, resumed, 300, now_s=100) is None
    assert eta_s(resumed, ProgressMark(done=242, time_s=160), 300, now_s=160) == 58 * 60


@pytest.mark.parametrize(
    ("first", "newest", "total"),
    [
        (None, None, None),
        (ProgressMark(done=1, time_s=0), ProgressMark(done=2, time_s=1), None),
        (ProgressMark(done=2, time_s=0), ProgressMark(done=1, time_s=1), 3),
    ],
)
def test_without_a_pace_there_is_no_eta(
    first: ProgressMark | None, newest: ProgressMark | None, total: float | None
) -> None:
    assert eta_s(first, newest, total, now_s=2) is None


@given(
    done=st.lists(st.floats(0, 1e6), min_size=2, max_size=2),
    times=st.lists(st.floats(0, 1e9), min_size=3, max_size=3),
    total=st.floats(1, 1e6),
)
def test_an_eta_is_never_negative(done: list[float], times: list[float], total: float) -> None:
    first_s, newest_s, now_s = sorted(times)
    eta = eta_s(
        ProgressMark(done=done[0], time_s=first_s),
        ProgressMark(done=done[1], time_s=newest_s),
        total,
        now_s=now_s,
    )
    assert eta is None or eta >= 0


@pytest.fixture
def plan(tmp_path: Path, store_uri: str) -> Plan:
    job = _load_job(tmp_path, store_uri)
    return plan_job(job, open_store(store_uri))


def _begin(plan: Plan, store: Store, *names: str) -> None:
    """Begin a run of only `names` that has run `first` for an epoch and wrote its record at
    NOW_S."""
    part = Plan(plan.job, tuple(plan[name] for name in names))
    journal = open_journal(store, part, run_id="r", clock=lambda: NOW_S)
    write_last_run(store, plan, run_id="r")
    journal.enter("first", State.RUNNING, Event("starting"))
    journal.hear(StageEvent("first", 1, NOW_S, Event("epoch 1/3", 1, 3, {"total": 1.0})))
    journal.write()


def _finish(plan: Plan, store: Store, name: str) -> None:
    manifest = Manifest(
        key=plan[name].key,
        stage=name,
        kind="count",
        recipe=plan[name].recipe,
        params={},
        artifacts={},
        metrics=(Metric(name="total", value=6.0, num_samples=3),),
        provenance={},
    )
    publish_manifest(store, manifest)


def test_a_job_that_never_ran_has_only_waiting_stages(plan: Plan, store_uri: str) -> None:
    status = load_status(plan.job, open_store(store_uri), now_s=NOW_S)
    assert _states(status) == ["waiting"] * 4
    assert status.run_id is None
    assert status.began_at_s is None
    assert status.heard_s_ago is None


def test_status_of_a_run_is_read_from_its_store(plan: Plan, store_uri: str) -> None:
    store = open_store(store_uri)
    _begin(plan, store, "first", "second", "third")
    status = load_status(plan.job, store, now_s=NOW_S + 7)
    assert status.run_id == "r"
    assert _states(status) == ["running", "running", "waiting", "waiting"]
    row = _row(status, "first")
    assert row.key == plan["first"].key
    assert row.done == 1
    assert row.total == 3
    assert row.metrics == {"total": 1.0}
    assert row.heard_s_ago == 7


def test_status_needs_no_events_of_the_run(plan: Plan, store_uri: str) -> None:
    store = open_store(store_uri)
    _begin(plan, store, "first")
    before = load_status(plan.job, store, now_s=NOW_S)
    for name in store.names("runs/r/events"):
        store.delete(name)
    assert load_status(plan.job, store, now_s=NOW_S) == before


def test_status_shows_stages_that_earlier_runs_finished(plan: Plan, store_uri: str) -> None:
    store = open_store(store_uri)
    third = plan["third"]
    _finish(plan, store, "third")
    _begin(plan, store, "first")
    row = _row(load_status(plan.job, store, now_s=NOW_S), "third")
    assert row.state == "done"
    assert row.event == "in an earlier run"
    assert row.metrics == {"total": 6.0}
    assert row.key == third.key


def test_stage_outside_a_partial_run_keeps_its_row(plan: Plan, store_uri: str) -> None:
    store = open_store(store_uri)
    _finish(plan, store, "third")
    write_last_run(store, plan, run_id="earlier")
    _begin(plan_job(plan.job, store, only=("first",)), store, "first")
    status = load_status(plan.job, store, now_s=NOW_S)
    assert _states(status) == ["running", "running", "waiting", "done"]
    assert _row(status, "third").key == plan["third"].key


def test_missing_record_of_a_run_is_an_error(plan: Plan, store_uri: str) -> None:
    store = open_store(store_uri)
    _begin(plan, store, "first")
    store.delete(record_name("r"))
    with pytest.raises(IntegrityError, match=r"runs/r/run\.json: is missing"):
        load_status(plan.job, store, now_s=NOW_S)
    store.write(last_run_name("counts"), b"{")
    with pytest.raises(IntegrityError, match=r"jobs/counts/latest\.json: not a record of a run"):
        load_status(plan.job, store, now_s=NOW_S)


def test_json_of_a_status_has_every_field_of_its_rows(job: Job) -> None:
    lost = {"attempt": 1, "why": "lost worker 1: killed"}
    remark = {"attempt": 2, "text": "checkpoint 2 is damaged"}
    stage = _stage(
        State.RUNNING,
        attempt=2,
        lost_attempts=[lost],
        remarks=[remark],
        metrics={"total": 1.0},
        workers=4,
        waits_for="4 workers",
    )
    document: dict[str, Any] = _status(job, {"first": stage}).to_json()
    assert set(document) == {
        "schema",
        "job",
        "run_id",
        "state",
        "began_at_s",
        "heard_s_ago",
        "error",
        "stages",
    }
    assert document["stages"][0] == {
        **{
            "stage": "first",
            "kind": "count",
            "state": "running",
            "attempt": 2,
            "done": None,
            "total": None,
        },
        **{
            "eta_s": None,
            "metrics": {"total": 1.0},
            "event": "it has not started yet",
            "heard_s_ago": None,
        },
        **{"key": "a" * 64, "lost_attempts": [lost], "remarks": [remark]},
        **{
            "workers": 4,
            "waits_for": "4 workers",
            "warnings": [{"name": "retries", "text": "1 attempt was lost"}],
        },
    }
