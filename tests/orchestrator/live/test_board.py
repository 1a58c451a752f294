"""The board: versions of sections, troubles, and whether somebody looks."""

from __future__ import annotations

import threading
from typing import Any

from orchestrator.live.board import Board


def sections_since(board: Board, version: int) -> dict[str, str]:
    update: Any = board.update_since(version)
    sections: dict[str, str] = update["sections"]
    return sections


def test_only_new_content_is_newer() -> None:
    board = Board()
    board.put("report", {"results": "1", "time": "1"})
    board.put("now", {"now": "1"})
    assert sections_since(board, 0) == {"now": "1", "results": "1", "time": "1"}
    version: Any = board.update_since(0)["version"]
    board.put("report", {"results": "2", "time": "1"})
    assert sections_since(board, version) == {"results": "2"}


def test_a_section_that_is_gone_is_no_longer_named() -> None:
    board = Board()
    board.put("now", {"now": "1", "events": "1"})
    board.put("now", {"now": "1"})
    assert board.update_since(0)["names"] == ["now"]


def test_a_trouble_keeps_the_time_of_its_beginning() -> None:
    times = iter([100.0, 105.0, 105.0, 110.0, 111.0])
    board = Board(clock=lambda: next(times))
    board.note_trouble("now", "store unreachable", "first")
    board.note_trouble("now", "store unreachable", "second")
    trouble = {"what": "store unreachable", "since_s": 100.0, "text": "second"}
    assert board.update_since(0)["trouble"] == trouble
    board.note_read("now")
    assert board.update_since(0)["trouble"] is None


def test_the_other_reader_does_not_end_a_trouble() -> None:
    board = Board()
    board.note_trouble("report", "store unreadable", "damaged")
    board.note_read("now")
    assert board.update_since(0)["trouble"] is not None


def test_readers_wait_for_a_viewer_or_the_end() -> None:
    board = Board()
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(board.wait_for_viewer()))
    waiting.start()
    assert found == []
    board.note_viewer()
    waiting.join(60)
    assert found == [True]
    board.close()
    assert board.wait_for_viewer() is False
    board.pause(600)
