"""`orchestrator report --format html`: what the store lacks or has damaged is named on the page."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.report import report
from orchestrator.errors import StoreError
from orchestrator.runs.record import RunRecord, RunState, StageRecord, record_name
from orchestrator.schedule import State
from orchestrator.store import Store, open_store
from orchestrator.store.publish import blob_name, sha256_of
from tests.orchestrator.cli.report.test_evaluation import STAGE, folder

__all__ = ["folder"]


@pytest.fixture
def store(folder: Path) -> Store:
    """The store of a job whose one stage is finished, with the record of its run."""
    store = open_store(str(folder / "store"))
    (manifest,) = store.names("manifests")
    key = manifest.removeprefix("manifests/").removesuffix(".json")
    stage = StageRecord(kind="evaluate", key=key, state=State.DONE)
    record = RunRecord(
        run_id="r",
        job="small",
        state=RunState.DONE,
        began_at_s=1000,
        heard_at_s=2000,
        stages={STAGE: stage},
    )
    store.write(record_name("r"), record.model_dump_json().encode())
    return store


def page(*options: str) -> str:
    stream = io.StringIO()
    report(parse_arguments(["report", "job.yaml", "--format", "html", *options]), stream)
    return stream.getvalue()


@pytest.mark.usefixtures("store")
def test_the_page_has_the_number_and_its_key() -> None:
    text = page()
    assert "40.60 %" in text
    assert "1 of 2 done" in text


def test_a_lost_picture_is_named_and_the_numbers_are_shown(folder: Path, store: Store) -> None:
    store.delete(blob_name(sha256_of(folder / "output" / "confusion.png")))
    text = page()
    assert f"stages.{STAGE}: its details are left out: store " in text
    assert "40.60 %" in text


def test_a_damaged_record_is_named_and_the_numbers_are_shown(store: Store) -> None:
    store.write(record_name("r"), b"{")
    text = page()
    assert "the states and curves of the last run are not known: store " in text
    assert "40.60 %" in text


def test_damaged_events_are_named(store: Store) -> None:
    store.write("runs/r/events/000001.jsonl", json.dumps({"stage": STAGE}).encode())
    assert "curves lack a part: runs/r/events/000001.jsonl is damaged" in page()


@pytest.mark.usefixtures("store")
def test_a_page_that_cannot_be_written_is_an_error() -> None:
    with pytest.raises(StoreError, match=r"^--output gone/report.html: cannot be written: No such"):
        page("--output", "gone/report.html")
