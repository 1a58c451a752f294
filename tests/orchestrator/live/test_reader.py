"""When the store is read: with a viewer only, and the report only after news."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.report import load_content
from orchestrator.errors import StoreError
from orchestrator.live.board import Board
from orchestrator.live.reader import USUAL_PACE, Reader
from orchestrator.report.content import ReportContent
from orchestrator.store.folder import FolderStore
from tests.orchestrator.live.serving import WrittenRun


class ReadLog(FolderStore):
    """Lists what is read."""

    def __init__(self, root: Path, reads: list[str]) -> None:
        super().__init__(root)
        self._reads = reads

    def read(self, name: str) -> bytes | None:
        self._reads.append(name)
        return super().read(name)


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    run = WrittenRun(tmp_path)
    run.begin()
    return run


def reader_of(run: WrittenRun, load_report: Callable[[], ReportContent] | None = None) -> Reader:
    arguments = parse_arguments(["dashboard", str(run.folder / "job.yaml")])

    def load() -> ReportContent:
        return load_content(arguments, run.job, run.store, has_history=True)

    def fail(err: BaseException) -> None:
        raise AssertionError from err

    return Reader(run.job, run.store, Board(), load_report or load, on_crash=fail)


def test_without_a_viewer_nothing_is_read(run: WrittenRun) -> None:
    reader = reader_of(run)
    reader.start()
    time.sleep(0.2)
    assert reader.board.update_since(0)["read_at_s"] is None
    reader.board.note_viewer()
    deadline = time.monotonic() + 300
    while reader.board.update_since(0)["read_at_s"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    reader.board.close()


def test_the_report_is_read_only_after_news(run: WrittenRun) -> None:
    reader = reader_of(run)
    reader.look_at_report()
    assert "origin" not in reader.board.update_since(0)["names"]  # type: ignore[operator]
    reader.look_at_status()
    assert reader.look_at_report() >= USUAL_PACE.report_s
    before = reader.board.update_since(0)["version"]
    assert reader.look_at_report() < 1  # no news
    assert reader.board.update_since(0)["version"] == before


def test_without_news_a_look_reads_two_objects(run: WrittenRun) -> None:
    reader = reader_of(run)
    reader.look_at_status()
    reads: list[str] = []
    reader.store = reader._feed.store = ReadLog(run.folder / "store", reads)
    reader.look_at_status()
    assert reads == ["jobs/small/latest.json", f"runs/{run.journal.record.run_id}/run.json"]
    run.hear(1)
    reader.look_at_status()
    assert reads[4:] == [f"runs/{run.journal.record.run_id}/events/{n:06d}.jsonl" for n in (2, 3)]


def test_a_run_that_ended_is_looked_at_less_often(run: WrittenRun) -> None:
    reader = reader_of(run)
    assert reader.look_at_status() == USUAL_PACE.status_s
    run.end()
    assert reader.look_at_status() == USUAL_PACE.idle_s


def test_a_record_that_is_damaged_is_named_as_unreadable(run: WrittenRun) -> None:
    reader = reader_of(run)
    (run.folder / "store" / "jobs" / "small" / "latest.json").write_text("{")
    reader.look_at_status()
    trouble = reader.board.update_since(0)["trouble"]
    assert isinstance(trouble, dict)
    assert trouble["what"] == "store unreadable"
    assert "jobs/small/latest.json: not a record of a run" in str(trouble["text"])


def test_a_report_after_an_outage_is_read_again(run: WrittenRun) -> None:
    reader = reader_of(run)
    reader.look_at_status()
    reader.look_at_report()
    record = run.folder / "store" / "jobs" / "small" / "latest.json"
    content = record.read_bytes()
    record.unlink()
    reader.look_at_status()
    record.write_bytes(content)
    reader.look_at_status()
    assert reader.look_at_report() >= USUAL_PACE.report_s


def test_a_failed_report_is_tried_again(run: WrittenRun) -> None:
    def fail() -> ReportContent:
        raise StoreError("store s3://bucket: cannot be reached")

    reader = reader_of(run, fail)
    reader.look_at_status()
    assert reader.look_at_report() == USUAL_PACE.status_s
    trouble = reader.board.update_since(0)["trouble"]
    assert isinstance(trouble, dict)
    assert trouble["what"] == "store unreachable"
