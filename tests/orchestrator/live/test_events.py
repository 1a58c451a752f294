"""The newest events of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.live.events import LIST_AFTER, NUM_EVENTS, EventFeed
from orchestrator.store import Store, open_store
from orchestrator.store.folder import FolderStore


class CountingStore(FolderStore):
    """Counts what is listed."""

    num_lists = 0

    def names(self, prefix: str) -> list[str]:
        self.num_lists += 1
        return super().names(prefix)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def write(store: Store, number: int, *texts: str, run_id: str = "r") -> None:
    lines = [
        json.dumps({"stage": "a", "trial": None, "time_s": 1.0, "event": {"text": text}})
        for text in texts
    ]
    store.write(f"runs/{run_id}/events/{number:06d}.jsonl", "\n".join(lines).encode())


def texts(feed: EventFeed, run_id: str = "r") -> list[str]:
    return [event.text for event in feed.read(run_id)]


def test_the_newest_event_is_first(store: Store) -> None:
    write(store, 1, "one", "two")
    write(store, 2, "three")
    assert texts(EventFeed(store)) == ["three", "two", "one"]


def test_only_the_last_events_are_kept(store: Store) -> None:
    for number in range(1, 11):
        write(store, number, *(f"{number}.{part}" for part in range(5)))
    found = texts(EventFeed(store))
    assert len(found) == NUM_EVENTS
    assert (found[0], found[-1]) == ("10.4", "7.0")


def test_new_batches_are_found_without_listing_again(tmp_path: Path) -> None:
    store = CountingStore(tmp_path / "store")
    feed = EventFeed(store)
    assert texts(feed) == []
    write(store, 1, "one")
    write(store, 2, "two")
    assert texts(feed) == ["two", "one"]
    assert texts(feed) == ["two", "one"]
    assert store.num_lists == 1


def test_batches_after_a_gap_are_found(store: Store) -> None:
    write(store, 1, "one")
    feed = EventFeed(store)
    assert texts(feed) == ["one"]
    write(store, 3, "three")
    for _ in range(LIST_AFTER):
        feed.read("r")
    assert texts(feed) == ["three", "one"]
    write(store, 4, "four")
    assert texts(feed) == texts(EventFeed(store)) == ["four", "three", "one"]


def test_another_run_has_its_own_events(store: Store) -> None:
    feed = EventFeed(store)
    write(store, 1, "one")
    assert texts(feed) == ["one"]
    write(store, 1, "other", run_id="s")
    assert texts(feed, "s") == ["other"]


def test_damaged_lines_are_left_out(store: Store) -> None:
    write(store, 1, "one")
    for number, content in enumerate((b"{", b"[]", b"\xff", b'{"stage": 1}'), start=2):
        store.write(f"runs/r/events/{number:06d}.jsonl", content)
    write(store, 6, "two")
    assert texts(EventFeed(store)) == ["two", "one"]
