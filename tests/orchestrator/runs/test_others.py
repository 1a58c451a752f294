"""Other runs and other users of a job's name in one store."""

from __future__ import annotations

import getpass
import json
from pathlib import Path

import pytest

from orchestrator.errors import StageHeldError
from orchestrator.runs import journal
from orchestrator.runs.others import refuse_second_run, warn_of_other_user
from orchestrator.runs.record import RunRecord, RunState, record_name
from orchestrator.store import Store, open_store

LAST = {"job": {"name": "cat", "stages": {}}, "run_id": "earlier", "stages": {}}
NOW_S = 1_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def _write_run(store: Store, **fields: object) -> None:
    values = {"run_id": "earlier", "job": "cat", "began_at_s": 0, "heard_at_s": NOW_S, "stages": {}}
    record = RunRecord.model_validate({**values, **fields})
    store.write(record_name("earlier"), record.model_dump_json().encode())
    store.write("jobs/cat/latest.json", json.dumps(LAST).encode())


def test_first_run_of_a_job_is_neither_refused_nor_warned(store: Store) -> None:
    refuse_second_run(store, "cat", now_s=NOW_S)
    assert warn_of_other_user(store, "cat") == ()


def test_second_run_at_a_time_is_refused(store: Store) -> None:
    _write_run(store)
    with pytest.raises(StageHeldError, match=r"^cat: run earlier is running, and store"):
        refuse_second_run(store, "cat", now_s=NOW_S + 60)


@pytest.mark.parametrize("fields", [{"state": RunState.DONE}, {"heard_at_s": NOW_S - 1000}])
def test_run_that_ended_or_is_silent_does_not_block(
    store: Store, fields: dict[str, object]
) -> None:
    _write_run(store, **fields)
    refuse_second_run(store, "cat", now_s=NOW_S)


def test_damaged_record_does_not_block(store: Store) -> None:
    _write_run(store)
    store.write(record_name("earlier"), b"{")
    refuse_second_run(store, "cat", now_s=NOW_S)
    store.write("jobs/cat/latest.json", b"{")
    assert warn_of_other_user(store, "cat") == ()


@pytest.mark.parametrize(
    ("user", "is_warned"), [("alice", True), (journal.current_user(), False), (None, False)]
)
def test_name_that_another_user_ran_last_is_a_warning(
    store: Store, user: str | None, is_warned: bool
) -> None:
    _write_run(store, user=user)
    warnings = warn_of_other_user(store, "cat")
    assert [text.startswith("cat was last run by alice in store ") for text in warnings] == [
        True
    ] * is_warned
    assert all("use --as NAME" in text for text in warnings)


def test_user_without_a_name_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.setattr(getpass, "getuser", fail)
    assert journal.current_user() is None
