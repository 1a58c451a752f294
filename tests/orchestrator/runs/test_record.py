"""How events update a stage's record."""

from __future__ import annotations

import pytest

from orchestrator.contract import Event
from orchestrator.errors import IntegrityError
from orchestrator.runs.record import (
    ProgressMark,
    RunRecord,
    SearchRecord,
    StageEvent,
    StageRecord,
    load_record,
    record_name,
)
from orchestrator.schedule import State
from orchestrator.store import open_store

WAITING = StageRecord(kind="count", key="a" * 64)
RUNNING = WAITING.entering(State.RUNNING, Event("starting"), time_s=100)
SEARCH = RUNNING.model_copy(update={"search": SearchRecord(metric="top1", num_trials=4)})


def _heard(
    record: StageRecord, time_s: float, event: Event, *, attempt: int = 1, trial: str | None = None
) -> StageRecord:
    return record.hearing(StageEvent("stage", attempt, time_s, event, trial=trial))


def test_record_has_the_first_and_newest_progress() -> None:
    record = RUNNING
    for time_s, done in ((110, 241), (120, 242), (130, 243)):
        record = _heard(record, time_s, Event(f"epoch {done}", done, 300))
    assert record.first == ProgressMark(done=241, time_s=110)
    assert record.newest == ProgressMark(done=243, time_s=130)
    assert record.total == 300
    assert record.event == "epoch 243"
    assert record.heard_at_s == 130


def test_event_without_progress_keeps_the_progress() -> None:
    record = _heard(_heard(RUNNING, 110, Event("epoch 1", 1, 3)), 120, Event("saving"))
    assert record.newest == ProgressMark(done=1, time_s=110)
    assert record.event == "saving"


def test_metric_is_kept_until_it_is_measured_again() -> None:
    record = _heard(RUNNING, 110, Event("validated", metrics={"miou": 40.0, "loss": 1.0}))
    record = _heard(record, 120, Event("iteration", metrics={"loss": 0.5}))
    assert record.metrics == {"miou": 40.0, "loss": 0.5}


def test_nan_metrics_are_only_in_the_text() -> None:
    record = _heard(RUNNING, 110, Event("loss nan", metrics={"loss": float("nan"), "top1": 3.0}))
    assert record.metrics == {"top1": 3.0}
    assert record.event == "loss nan"


def test_lost_attempt_is_recorded_with_its_reason() -> None:
    record = _heard(RUNNING, 110, Event("epoch 1", 1, 3))
    record = record.hearing(
        StageEvent("stage", 1, 120, Event("attempt 2 of 3"), lost="lost worker 1: killed")
    )
    assert record.attempt == 1
    record = _heard(record, 121, Event("starting 2 workers"), attempt=2)
    assert [(lost.attempt, lost.why) for lost in record.lost_attempts] == [
        (1, "lost worker 1: killed")
    ]
    assert record.attempt == 2
    assert record.first is None
    assert record.newest is None


def test_record_has_the_workers_of_the_newest_attempt() -> None:
    record = RUNNING.hearing(StageEvent("a", 1, 110, Event("starting 4 workers"), workers=4))
    record = _heard(record, 120, Event("epoch 1", 1, 3))
    assert record.workers == 4
    record = _heard(record, 130, Event("waiting for resources"), attempt=2)
    assert record.workers is None
    assert record.hearing(StageEvent("a", 2, 140, Event("starting"), workers=2)).workers == 2


def test_wait_ends_with_the_next_event() -> None:
    waiting = WAITING.waiting_for("needs 8 GPUs, 4 free")
    assert waiting.waits_for == "needs 8 GPUs, 4 free"
    assert waiting.waiting_for("needs 8 GPUs, 4 free") is waiting
    running = waiting.entering(State.RUNNING, Event("starting"), time_s=100)
    assert running.waits_for is None
    full = running.hearing(StageEvent("a", 1, 110, Event("waiting"), waits_for="needs 2 workers"))
    assert full.waits_for == "needs 2 workers"
    assert _heard(full, 120, Event("starting 2 workers")).waits_for is None


def test_marks_count_the_progress_after_the_first() -> None:
    record = RUNNING
    for number in range(4):
        record = _heard(record, 110 + number, Event(f"epoch {number}", number, 9))
        record = _heard(record, 110 + number, Event("saving"))
    assert record.num_marks == 3
    assert _heard(record, 120, Event("resuming", 2, 9), attempt=2).num_marks == 0


def test_record_of_an_older_version_is_read() -> None:
    old = RUNNING.model_dump(exclude={"workers", "waits_for", "num_marks"})
    assert StageRecord.model_validate(old) == RUNNING


def test_remark_is_kept_after_later_events() -> None:
    remark = StageEvent("stage", 1, 110, Event("checkpoint 2 is damaged"), is_remark=True)
    record = _heard(RUNNING.hearing(remark), 120, Event("epoch 1", 1, 3))
    record = _heard(record, 130, Event("starting 2 workers"), attempt=2)
    assert record.event == "starting 2 workers"
    assert [(remark.attempt, remark.text) for remark in record.remarks] == [
        (1, "checkpoint 2 is damaged")
    ]


def test_late_events_of_a_lost_attempt_change_nothing() -> None:
    record = _heard(RUNNING, 120, Event("starting 2 workers"), attempt=2)
    assert _heard(record, 121, Event("epoch 9", 9, 10)) == record
    done = record.entering(State.DONE, Event("top1 90.00", metrics={"top1": 90.0}), time_s=130)
    assert _heard(done, 131, Event("epoch 10", 10, 10), attempt=2) == done


def test_finished_stage_has_its_manifests_metrics() -> None:
    record = _heard(RUNNING, 110, Event("epoch 1", metrics={"loss": 1.0, "top1": 80.0}))
    assert record.entering(State.DONE, Event("", metrics={"top1": 90.0}), time_s=130).metrics == {
        "top1": 90.0
    }
    assert record.entering(State.FAILED, Event("a bug"), time_s=130).metrics == {
        "loss": 1.0,
        "top1": 80.0,
    }


def test_search_counts_trials_and_keeps_the_best_value() -> None:
    record = _heard(SEARCH, 110, Event("epoch 1/2", 1, 2, {"top1": 30.0, "loss": 1.0}), trial="a")
    record = _heard(record, 120, Event("epoch 1/2", 1, 2, {"top1": 20.0, "loss": 0.1}), trial="b")
    record = _heard(record, 130, Event("ended", 1, 1), trial="b")
    assert record.newest == ProgressMark(done=1.5, time_s=130)
    assert record.total == 4
    assert record.metrics == {"top1": 30.0}
    assert record.search is not None
    assert record.search.num_left == 3  # trial a, which is running, and two that did not begin
    assert record.search.num_under_way == 1


def test_search_with_mode_min_keeps_the_lowest_value() -> None:
    search = RUNNING.model_copy(
        update={"search": SearchRecord(metric="loss", mode="min", num_trials=4)}
    )
    record = _heard(search, 110, Event("epoch 1/2", 1, 2, {"loss": 0.3}), trial="a")
    record = _heard(record, 120, Event("epoch 1/2", 1, 2, {"loss": 0.2}), trial="b")
    assert _heard(record, 130, Event("epoch 2/2", 2, 2, {"loss": 0.9}), trial="b").metrics == {
        "loss": 0.2
    }


def test_search_counts_trials_that_earlier_runs_finished() -> None:
    record = _heard(SEARCH, 110, Event("2 of 4 trials finished", 2, 4))
    record = _heard(record, 120, Event("epoch 1/2", 1, 2), trial="c")
    assert record.first == ProgressMark(done=2, time_s=110)
    assert record.newest == ProgressMark(done=2.5, time_s=120)
    assert record.search is not None
    assert record.search.num_left == 2


def test_record_is_read_as_it_was_written(store_uri: str) -> None:
    store = open_store(store_uri)
    record = RunRecord(
        run_id="r", job="j", began_at_s=1.5, heard_at_s=2.5, stages={"a": SEARCH, "b": WAITING}
    )
    store.write(record_name("r"), record.model_dump_json().encode())
    assert load_record(store, "r") == record


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema_version": 2}', b"\xff"])
def test_damaged_record_is_an_error(store_uri: str, content: bytes) -> None:
    store = open_store(store_uri)
    store.write(record_name("r"), content)
    with pytest.raises(
        IntegrityError, match=r"runs/r/run\.json: not a record of a run: .*run the job again"
    ):
        load_record(store, "r")


def test_missing_record_is_an_error(store_uri: str) -> None:
    with pytest.raises(
        IntegrityError, match=r"runs/r/run\.json: is missing, .*; run the job again"
    ):
        load_record(open_store(store_uri), "r")
