"""The runs in a store: which ones are listed, with both kinds of store."""

from __future__ import annotations

import io

import pytest

from orchestrator.cli.runs import show_listing
from orchestrator.cli.status import STYLES
from orchestrator.runs.last_run import LastRun, last_run_name
from orchestrator.runs.listing import Listing, load_listing
from orchestrator.runs.record import RunRecord, RunState, StageRecord, record_name
from orchestrator.runs.status import LOST_AFTER_S
from orchestrator.schedule import State
from orchestrator.store import Store, open_store

NOW_S = 10_000.0
STATES = {"a": State.REUSED, "b": State.DONE, "c": State.RUNNING, "d": State.WAITING}


@pytest.fixture
def store(store_uri: str) -> Store:
    return open_store(store_uri)


def _write(
    store: Store,
    run_id: str,
    job: str,
    *,
    began_at_s: float,
    state: RunState = RunState.DONE,
    heard_at_s: float = NOW_S - 5,
) -> None:
    """Write the record of a run, which is the job's last one."""
    stages = {
        name: StageRecord(kind="count", key="a" * 64, state=at) for name, at in STATES.items()
    }
    record = RunRecord(
        run_id=run_id,
        job=job,
        state=state,
        began_at_s=began_at_s,
        heard_at_s=heard_at_s,
        stages=stages,
    )
    store.write(record_name(run_id), record.model_dump_json().encode())
    store.write(f"runs/{run_id}/events/000001.jsonl", b"{}\n")
    last = LastRun(job={}, run_id=run_id, stages={})
    store.write(last_run_name(job), last.model_dump_json().encode())


def _ids(listing: Listing) -> list[str]:
    return [run.run_id for run in listing.runs]


def test_runs_are_listed_newest_first(store: Store) -> None:
    _write(store, "1", "paper", began_at_s=100)
    _write(store, "2", "toy", began_at_s=300, state=RunState.RUNNING)
    _write(store, "3", "paper", began_at_s=200, state=RunState.FAILED, heard_at_s=260)
    listing = load_listing(store, most=50, now_s=NOW_S)
    assert _ids(listing) == ["2", "3", "1"]
    assert [run.job for run in listing.runs] == ["toy", "paper", "paper"]
    running, failed, _ = listing.runs
    assert (running.state, running.took_s, running.heard_s_ago) == ("running", NOW_S - 300, 5)
    assert (failed.state, failed.took_s, failed.heard_s_ago) == ("failed", 60, NOW_S - 260)
    assert (failed.num_finished, failed.num_stages) == (2, 4)
    assert (listing.num_left_out, listing.remarks) == (0, ())


def test_silent_run_is_lost(store: Store) -> None:
    heard_at_s = NOW_S - LOST_AFTER_S - 1
    _write(store, "1", "a", began_at_s=1, state=RunState.RUNNING, heard_at_s=heard_at_s)
    (run,) = load_listing(store, most=50, now_s=NOW_S).runs
    assert (run.state, run.took_s) == ("lost", heard_at_s - 1)


def test_newest_runs_and_the_last_run_of_every_job_are_listed(store: Store) -> None:
    _write(store, "1", "old", began_at_s=1)
    _write(store, "2", "old", began_at_s=2)
    for number in range(3, 7):
        _write(store, str(number), "paper", began_at_s=number)
    listing = load_listing(store, most=2, now_s=NOW_S)
    assert _ids(listing) == ["6", "5", "2"]
    assert listing.num_left_out == 3
    everything = load_listing(store, most=None, now_s=NOW_S)
    assert _ids(everything) == ["6", "5", "4", "3", "2", "1"]
    assert everything.num_left_out == 0


def test_damaged_records_are_remarks(store: Store) -> None:
    for number in range(1, 5):
        _write(store, str(number), f"job{number}", began_at_s=number)
    store.write(record_name("2"), b"{")
    store.delete(record_name("3"))
    store.write(last_run_name("job3"), b"[]")
    listing = load_listing(store, most=50, now_s=NOW_S)
    assert _ids(listing) == ["4", "1"]
    assert [remark.split(": ")[1] for remark in listing.remarks] == [
        "runs/3/run.json",
        "runs/2/run.json",
        "jobs/job3/latest.json",
    ]
    assert all(len(remark.splitlines()) == 1 for remark in listing.remarks)


def test_store_without_runs_has_none(store: Store) -> None:
    assert load_listing(store, most=50, now_s=NOW_S) == Listing(store.uri, (), 0, ())


def test_json_has_every_run(store: Store) -> None:
    _write(store, "1", "paper", began_at_s=100, heard_at_s=400)
    assert load_listing(store, most=50, now_s=500).to_json() == {
        "schema": 1,
        "store": store.uri,
        "runs": [
            {
                "job": "paper",
                "run_id": "1",
                "state": "done",
                "began_at_s": 100,
                "took_s": 300,
                "heard_s_ago": 100,
                "num_finished": 2,
                "num_stages": 4,
                "error": None,
            }
        ],
        "num_left_out": 0,
        "remarks": [],
    }


def test_table_says_what_it_leaves_out(store: Store) -> None:
    for number in range(3):
        _write(store, str(number), "[bold]paper", began_at_s=number, heard_at_s=3600)
    stream = io.StringIO()
    show_listing(load_listing(store, most=1, now_s=7200), stream, STYLES)
    _, row, rest = stream.getvalue().splitlines()
    assert row.split()[:4] == ["[bold]paper", "2", "done", "2/4"]
    assert row.endswith(" 59 min  1 h 0 min ago")
    assert rest == "2 earlier runs are not listed; --all lists them"
    stream = io.StringIO()
    show_listing(Listing("s3://bucket/a", (), 0, ("x is damaged",)), stream, STYLES)
    assert stream.getvalue() == "s3://bucket/a: no runs\nx is damaged\n"
