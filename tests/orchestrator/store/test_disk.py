"""A folder has no empty folders, and a writer does not notice that others remove them."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from orchestrator.errors import StoreError
from orchestrator.store import disk, open_store

ROUNDS = 300


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files and folders that are synced, in order."""
    found: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        found.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return found


def test_bytes_and_then_names_are_synced(tmp_path: Path, synced: list[str]) -> None:
    store = open_store(str(tmp_path / "store"))
    store.write("jobs/a/latest.json", b"1")
    assert synced[:2] == ["store", "jobs"]  # the new folders
    assert synced[2].startswith(".latest.json.")
    assert synced[3:] == ["a"]
    synced.clear()
    assert store.create("jobs/a/other.json", b"1")
    assert [name.partition(".json")[0] for name in synced] == [".other", "a"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EPERM])
def test_file_system_that_does_not_sync_folders_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_dir():
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    open_store(str(tmp_path)).write("a/b", b"1")
    assert (tmp_path / "a" / "b").read_bytes() == b"1"


def test_lost_write_of_a_name_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        disk.sync_folder(tmp_path)
    with pytest.raises(StoreError, match="cannot write a/b: Input/output error"):
        open_store(str(tmp_path)).write("a/b", b"1")


def test_folder_that_vanishes_as_soon_as_it_exists_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir, num_left = Path.mkdir, 3

    def mkdir_of_another(path: Path, *arguments: Any, **options: Any) -> None:
        nonlocal num_left
        if path.name == "k" and path.parent.exists() and num_left:
            num_left -= 1
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir_of_another)
    open_store(str(tmp_path)).write("train/k/a", b"1")
    assert (tmp_path / "train" / "k" / "a").read_bytes() == b"1"
    assert num_left == 0


def test_deleting_the_last_file_removes_its_folders(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    for name in ("train/k/checkpoints/1/a", "train/k/b"):
        store.write(name, b"1")
    store.delete("train/k/checkpoints/1/a")
    assert [path.name for path in (tmp_path / "store" / "train" / "k").iterdir()] == ["b"]
    store.delete("train/k/b")
    assert list((tmp_path / "store").iterdir()) == []


def test_clearing_removes_what_a_killed_writer_has_left(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    store.write("train/k/checkpoints/1/a", b"1")
    (tmp_path / "store" / "train" / "k" / "checkpoints" / "1" / ".a.0123").write_bytes(b"half")
    store.clear("train/k")
    assert list((tmp_path / "store").iterdir()) == []


def _write(uri: str, number: int) -> None:
    store = open_store(uri)
    for one in range(ROUNDS):
        name = f"train/k/{number}-{one}"
        store.write(name, b"1") if one % 2 else store.create(name, b"1")
        assert store.read(name) == b"1"
        store.names("train")
        store.folders("train")
        store.delete(name)


def _upload(uri: str, path: Path) -> None:
    store = open_store(uri)
    for one in range(ROUNDS):
        name = f"train/k/up{one}"
        store.upload_as(lambda _, name=name: name, path)  # type: ignore[misc]
        assert store.read(name) == b"content"
        store.delete(name)


def test_writers_and_deleters_of_one_folder_do_not_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    uri, context = str(tmp_path / "store"), multiprocessing.get_context("fork")
    racers = [context.Process(target=_write, args=(uri, number)) for number in range(3)]
    racers.append(context.Process(target=_upload, args=(uri, tmp_path / "file")))
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * 4
    assert list((tmp_path / "store").iterdir()) == []
