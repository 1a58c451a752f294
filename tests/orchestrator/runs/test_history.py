"""Curves of a stage over the attempts and runs that trained it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import pytest

from orchestrator.contract import Event
from orchestrator.history import Curve, StageHistory
from orchestrator.runs.history import load_histories
from orchestrator.runs.record import RunRecord, StageEvent, StageRecord, record_name
from orchestrator.store import Store, open_store

KEY = "a" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def write_run(store: Store, run_id: str, *events: StageEvent, stage: str = "train") -> None:
    """A run as the journal leaves it."""
    record = RunRecord(
        run_id=run_id,
        job="job",
        began_at_s=0,
        heard_at_s=100,
        stages={stage: StageRecord(kind="count", key=KEY)},
    )
    store.write(record_name(run_id), record.model_dump_json().encode())
    lines = "".join(json.dumps(asdict(event)) + "\n" for event in events)
    store.write(f"runs/{run_id}/events/000001.jsonl", lines.encode())


def epoch(
    number: float, loss: float, *, attempt: int = 1, time_s: float = 0, stage: str = "train"
) -> StageEvent:
    event = Event(f"epoch {number}", number, 6, {"loss": loss, "epoch": number})
    return StageEvent(stage, attempt, time_s, event)


def resumed(number: float, *, attempt: int, stage: str = "train") -> StageEvent:
    return StageEvent(stage, attempt, 0, Event(f"resuming at epoch {number}", number, 6))


def history(store: Store, *run_ids: str) -> StageHistory:
    return load_histories(store, run_ids, keys=[KEY]).stages[KEY]


def points(curve: Curve) -> Mapping[float, float]:
    return dict(zip(curve.done, curve.values, strict=True))


def test_a_curve_continues_in_the_next_attempt(store: Store) -> None:
    lost = StageEvent("train", 1, 30, Event("lost a worker; attempt 2 of 3"), lost="lost a worker")
    write_run(
        store,
        "1",
        *(epoch(number, 0.1 * number) for number in (1, 2, 3)),
        lost,
        resumed(2, attempt=2),
        epoch(3, 7.0, attempt=2),
        epoch(4, 8.0, attempt=2, time_s=50),
    )
    found = history(store, "1")
    assert points(found.curves["loss"]) == {1: 0.1, 2: 0.2, 3: 7.0, 4: 8.0}
    assert [attempt.lost for attempt in found.attempts] == ["lost a worker", None]
    assert found.resumptions == (2,)


def test_a_stage_killed_in_two_runs_has_one_curve(store: Store) -> None:
    write_run(store, "1", epoch(1, 1.0), epoch(2, 2.0), epoch(2.5, 2.5))
    write_run(store, "2", resumed(2, attempt=1), epoch(3, 3.0), epoch(4, 4.0))
    write_run(
        store,
        "3",
        resumed(3, attempt=1, stage="renamed"),
        epoch(4, 40.0, stage="renamed"),
        epoch(5, 50.0, stage="renamed"),
        stage="renamed",
    )
    found = history(store, "3", "1", "2")
    assert points(found.curves["loss"]) == {1: 1, 2: 2, 3: 3, 4: 40, 5: 50}
    assert [attempt.run_id for attempt in found.attempts] == ["1", "2", "3"]


def test_training_from_the_start_again_forgets_the_curve(store: Store) -> None:
    write_run(store, "1", epoch(1, 1.0), epoch(2, 2.0))
    write_run(store, "2", epoch(1, 10.0))
    assert points(history(store, "1", "2").curves["loss"]) == {1: 10}


def test_late_events_of_a_lost_attempt_change_no_curve(store: Store) -> None:
    write_run(store, "1", epoch(1, 1.0), epoch(2, 20.0, attempt=2), epoch(3, 3.0, attempt=1))
    assert points(history(store, "1").curves["loss"]) == {1: 1, 2: 20}


def test_trials_of_a_search_are_not_its_curve(store: Store) -> None:
    trial = StageEvent("train", 1, 0, Event("epoch 1", 1, 6, {"loss": 1.0}), trial="00001")
    write_run(store, "1", trial)
    assert history(store, "1").curves == {}


def test_infinite_values_are_left_out(store: Store) -> None:
    write_run(store, "1", epoch(1, 1.0), epoch(2, float("inf")), epoch(3, float("nan")))
    assert points(history(store, "1").curves["loss"]) == {1: 1}


def test_damaged_events_are_remarked_and_the_rest_is_read(store: Store) -> None:
    write_run(store, "1", epoch(1, 1.0))
    store.write("runs/1/events/000002.jsonl", b'{"stage": "train", "att\n')
    found = load_histories(store, ["1"], keys=[KEY])
    assert points(found.stages[KEY].curves["loss"]) == {1: 1}
    (remark,) = found.remarks
    assert remark.startswith("curves lack a part: runs/1/events/000002.jsonl is damaged: ")


def test_a_run_without_a_record_is_remarked(store: Store) -> None:
    write_run(store, "2", epoch(1, 1.0))
    found = load_histories(store, ["1", "2"], keys=[KEY])
    (remark,) = found.remarks
    assert remark.startswith("curves lack run 1: ")
    assert [run.run_id for run in found.runs] == ["2"]
