"""What a journal writes to the store, and how often."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.contract import Event
from orchestrator.errors import StoreError
from orchestrator.planning import plan_job
from orchestrator.runs.journal import (
    FLUSH_INTERVAL_S,
    HEARTBEAT_S,
    STORE_OUTAGE_LIMIT_S,
    Journal,
    open_journal,
)
from orchestrator.runs.record import RunState, StageEvent, load_record
from orchestrator.schedule import State
from orchestrator.spec import load_job
from orchestrator.store import open_store
from tests.orchestrator.counting import KINDS

JOB = """
name: counts
stages:
  search: {kind: tune, of: a, space: {gain: {uniform: [1.0, 2.0]}}, num_trials: 5}
  a: {kind: count, data: data}
"""


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(tmp_path: Path, store_uri: str, clock: Clock) -> Journal:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    (tmp_path / "job.yaml").write_text(JOB)
    job = load_job(tmp_path / "job.yaml", kinds=KINDS, store=store_uri, base_dir=tmp_path)
    store = open_store(store_uri)
    return open_journal(store, plan_job(job, store), run_id="r", clock=clock)


def _heard_at_s(journal: Journal) -> float:
    return load_record(journal.store, "r").heard_at_s


def _batches(journal: Journal) -> list[str]:
    return journal.store.names("runs/r/events")


def test_new_run_has_a_record_of_its_waiting_stages(journal: Journal) -> None:
    record = load_record(journal.store, "r")
    assert record.job == "counts"
    assert record.state == "running"
    assert record.began_at_s == 1000
    assert {name: stage.state for name, stage in record.stages.items()} == {
        "search": "waiting",
        "a": "waiting",
    }
    search = record.stages["search"].search
    assert search is not None
    assert search.metric == "total"
    assert search.num_trials == 5


def test_without_news_only_the_record_is_written_and_rarely(journal: Journal, clock: Clock) -> None:
    clock.now_s += HEARTBEAT_S - 1
    journal.write_if_due()
    assert _heard_at_s(journal) == 1000
    clock.now_s += 1
    journal.write_if_due()
    assert _heard_at_s(journal) == 1000 + HEARTBEAT_S
    assert _batches(journal) == []


def test_events_are_batched_and_the_record_has_the_newest(journal: Journal, clock: Clock) -> None:
    journal.enter("a", State.RUNNING, Event("starting"))
    for epoch in (1, 2):
        journal.hear(StageEvent("a", 1, clock.now_s, Event(f"epoch {epoch}/3", epoch, 3)))
    journal.write_if_due()
    assert _batches(journal) == []
    clock.now_s += FLUSH_INTERVAL_S
    journal.write_if_due()
    (name,) = _batches(journal)
    lines = (journal.store.read(name) or b"").splitlines()
    assert [json.loads(line)["event"]["text"] for line in lines] == [
        "running: starting",
        "epoch 1/3",
        "epoch 2/3",
    ]
    assert load_record(journal.store, "r").stages["a"].event == "epoch 2/3"


def test_wait_is_written_with_the_next_record(journal: Journal, clock: Clock) -> None:
    journal.enter("search", State.RUNNING, Event("starting"))
    journal.write()
    for _ in range(3):
        journal.wait({"a": "needs 2 CPUs, 1 free"})
        journal.write_if_due()
    assert load_record(journal.store, "r").stages["a"].waits_for is None
    clock.now_s += HEARTBEAT_S
    journal.write_if_due()
    record = load_record(journal.store, "r")
    assert record.stages["a"].waits_for == "needs 2 CPUs, 1 free"
    assert record.stages["search"].waits_for is None
    journal.wait({})
    assert journal.record.stages["a"].waits_for is None


def test_batch_of_events_is_never_overwritten(journal: Journal, clock: Clock) -> None:
    journal.enter("a", State.RUNNING, Event("starting"))
    for epoch in (1, 2, 3):
        journal.hear(StageEvent("a", 1, clock.now_s, Event(f"epoch {epoch}/3", epoch, 3)))
        journal.write()
    texts = [(journal.store.read(name) or b"").decode() for name in _batches(journal)]
    assert [text.count("\n") for text in texts] == [2, 1, 1]


def test_batch_of_a_failed_write_is_written_again_as_it_was(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = journal.store.write

    def lose_answer(name: str, content: bytes) -> None:
        write(name, content)
        raise StoreError("no answer")

    monkeypatch.setattr(journal.store, "write", lose_answer)
    journal.enter("a", State.RUNNING, Event("starting"))
    with pytest.raises(StoreError):
        journal.write()
    monkeypatch.undo()
    first = journal.store.read("runs/r/events/000001.jsonl")
    journal.hear(StageEvent("a", 1, 1000, Event("epoch 1/3", 1, 3)))
    journal.write()
    assert journal.store.read("runs/r/events/000001.jsonl") == first, "a reader may have kept it"
    (line,) = (journal.store.read("runs/r/events/000002.jsonl") or b"").splitlines()
    assert json.loads(line)["event"]["text"] == "epoch 1/3"


def test_record_is_written_after_the_clock_was_set_back(journal: Journal, clock: Clock) -> None:
    clock.now_s -= 3600
    journal.write_if_due()
    assert _heard_at_s(journal) == 1000 - 3600


def test_end_is_written_at_once_with_its_reason(journal: Journal) -> None:
    journal.enter("a", State.FAILED, Event("a bug"), error="a bug\nTraceback")
    journal.end(RunState.FAILED, error="no cluster")
    record = load_record(journal.store, "r")
    assert record.state == "failed"
    assert record.error == "no cluster"
    assert record.stages["a"].error == "a bug\nTraceback"
    assert len(_batches(journal)) == 1


def test_store_outage_loses_no_event(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    (tmp_path / "job.yaml").write_text(JOB)
    job = load_job(
        tmp_path / "job.yaml", kinds=KINDS, store=str(tmp_path / "store"), base_dir=tmp_path
    )
    store = open_store(job.store)
    journal = open_journal(store, plan_job(job, store), run_id="r", clock=clock)
    journal.enter("a", State.RUNNING, Event("starting"))

    runs, away = tmp_path / "store" / "runs", tmp_path / "away"
    runs.rename(away)
    runs.write_text("not a folder: nothing can be written below it")
    clock.now_s += FLUSH_INTERVAL_S
    assert isinstance(journal.write_if_due(), StoreError), "the outage is reported"
    clock.now_s += STORE_OUTAGE_LIMIT_S
    assert journal.write_if_due() is None, "once"
    clock.now_s += FLUSH_INTERVAL_S
    with pytest.raises(StoreError):
        journal.write_if_due()

    runs.unlink()
    away.rename(runs)
    clock.now_s += FLUSH_INTERVAL_S
    journal.write_if_due()
    assert _batches(journal) == ["runs/r/events/000001.jsonl"], "the numbers have no gap"
    batches = [path.read_text() for path in (runs / "r" / "events").iterdir()]
    assert [
        json.loads(line)["event"]["text"] for batch in batches for line in batch.splitlines()
    ] == ["running: starting"]
    assert load_record(store, "r").heard_at_s == clock.now_s


def test_errors_in_the_record_and_in_events_have_no_secret(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_PASSWORD", "correct horse")
    url = "https://b.example/k?X-Amz-" + "Signature=0123456789abcdef"
    error = f"no answer from {url} with correct horse"
    journal.enter("a", State.RUNNING, Event("starting"))
    journal.hear(StageEvent("a", 1, 1001, Event(f"{error}; attempt 2 of 3"), lost=error))
    journal.enter("a", State.FAILED, Event(error), error=error)
    journal.end(RunState.FAILED, error=error)
    stored = b"".join(journal.store.read(name) or b"" for name in journal.store.names("runs/r"))
    assert b"0123456789abcdef" not in stored
    assert b"correct horse" not in stored
    assert stored.count(b"no answer from https://b.example/k*** with ***") == 7
