"""The room for data sets and inputs: the least recently used goes first, and never what is in
use."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from orchestrator import cache_room
from orchestrator.cache_room import hold, limit_bytes, locked, make_room, note_size
from orchestrator.errors import JobError

KIB = 2**10


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache_room, "_held", {})
    return tmp_path / "caches"


def _add_input(caches: Path, name: str, *, used_s: float) -> Path:
    path = caches / "inputs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(64 * KIB))
    os.utime(path, (used_s, used_s))
    return path


def _add_data(caches: Path, name: str, *, used_s: float) -> Path:
    """A data set of about 64 KiB, which has a second hard link as in a tree."""
    home = caches / "data" / name
    (home / "objects").mkdir(parents=True)
    (home / "objects" / "one").write_bytes(os.urandom(64 * KIB))
    (home / "tree").hardlink_to(home / "objects" / "one")
    (home / "in_use").touch()
    note_size(home)
    os.utime(home / "in_use", (used_s, used_s))
    return home


def test_least_recently_used_goes_first_of_inputs_and_data(caches: Path) -> None:
    oldest = _add_data(caches, "oldest", used_s=1)
    old, new = (_add_input(caches, name, used_s=used) for name, used in (("old", 2), ("new", 4)))
    recent = _add_data(caches, "recent", used_s=3)
    make_room(caches, 64 * KIB, 300 * KIB)
    assert [path.exists() for path in (oldest, old, recent, new)] == [False, True, True, True]
    make_room(caches, 64 * KIB, 130 * KIB)
    assert [path.exists() for path in (oldest, old, recent, new)] == [False, False, False, True]
    assert list((caches / "data").iterdir()) == []


def test_input_that_a_worker_has_is_kept(caches: Path, tmp_path: Path) -> None:
    used, unused = (_add_input(caches, name, used_s=1) for name in ("used", "unused"))
    (tmp_path / "worker").hardlink_to(used)
    make_room(caches, 0, 0)
    assert used.exists()
    assert not unused.exists()


def test_full_disk_also_makes_room(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [_add_input(caches, str(number), used_s=number) for number in range(3)]
    usage = cache_room.shutil.disk_usage(caches)._replace(free=100 * KIB)  # type: ignore[attr-defined]
    monkeypatch.setattr(cache_room.shutil, "disk_usage", lambda _: usage)  # type: ignore[attr-defined]
    make_room(caches, 200 * KIB, float("inf"))
    assert [path.exists() for path in paths] == [False, False, True]


def _use(home: Path, is_held: multiprocessing.SimpleQueue[bool]) -> None:
    with locked(home / "lock"):
        hold(home)
    is_held.put(True)
    multiprocessing.parent_process().join()  # type: ignore[union-attr]


def test_data_set_is_kept_until_its_process_is_killed(caches: Path) -> None:
    home = _add_data(caches, "set", used_s=1)
    context = multiprocessing.get_context("fork")
    is_held: multiprocessing.SimpleQueue[bool] = context.SimpleQueue()
    user = context.Process(target=_use, args=(home, is_held))
    user.start()
    assert is_held.get()
    make_room(caches, 0, 0)
    assert (home / "tree").exists()
    user.kill()
    user.join()
    make_room(caches, 0, 0)
    assert not home.exists()


def test_data_set_that_is_being_fetched_is_kept(caches: Path) -> None:
    home = _add_data(caches, "set", used_s=1)
    with locked(home / "lock"):
        make_room(caches, 0, 0)
        assert (home / "tree").exists()


def test_data_set_that_is_being_fetched_is_neither_measured_nor_counted(caches: Path) -> None:
    home, old = _add_data(caches, "set", used_s=2), _add_input(caches, "old", used_s=1)
    (home / "size").unlink()
    with locked(home / "lock"):
        make_room(caches, 0, 100 * KIB)
    assert old.exists()
    make_room(caches, 0, 100 * KIB)  # its fetch was killed: now it counts
    assert not old.exists()
    assert not (home / "size").exists()


def test_what_killed_evictions_and_copies_left_is_deleted(caches: Path) -> None:
    _add_data(caches, ".set.0123", used_s=1)
    kept = _add_data(caches, "set", used_s=1)
    left = _add_input(caches, ".left.0123", used_s=time.time() - 3700)
    written = _add_input(caches, ".written.0123", used_s=time.time() - 60)
    make_room(caches, 0, float("inf"))
    assert list((caches / "data").iterdir()) == [kept]
    assert not left.exists()
    assert written.exists()


def _die(path: Path) -> None:
    os._exit(1)


def test_eviction_that_is_killed_is_completed_by_the_next(
    caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add_data(caches, "set", used_s=1)
    with monkeypatch.context() as patch:
        patch.setattr(cache_room.shutil, "rmtree", _die)  # type: ignore[attr-defined]
        killed = multiprocessing.get_context("fork").Process(target=make_room, args=(caches, 0, 0))
        killed.start()
        killed.join()
    assert len(list((caches / "data").iterdir())) == 1
    make_room(caches, 0, float("inf"))
    assert list((caches / "data").iterdir()) == []


def _fetch_again_and_again(caches: Path) -> None:
    home = caches / "data" / "set"
    for _ in range(100):
        with locked(home / "lock"):
            (home / "file").write_text("whole")
            assert (home / "file").read_text() == "whole"


def _evict_again_and_again(caches: Path) -> None:
    for _ in range(200):
        make_room(caches, 0, 0)


def test_fetching_and_evicting_do_not_disturb_each_other(caches: Path) -> None:
    context = multiprocessing.get_context("fork")
    work = (_fetch_again_and_again, _fetch_again_and_again, _evict_again_and_again)
    racers = [context.Process(target=one, args=(caches,)) for one in work]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0, 0, 0]


def test_limit_is_read_from_the_environment() -> None:
    assert limit_bytes({}) == 200 * 2**30
    assert limit_bytes({"ORCHESTRATOR_CACHE_GIB": "0.5"}) == 2**29
    with pytest.raises(JobError, match="ORCHESTRATOR_CACHE_GIB is 'much', not a number of GiB"):
        limit_bytes({"ORCHESTRATOR_CACHE_GIB": "much"})
