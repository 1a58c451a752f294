"""A full disk ends a verb with a message, and never with a traceback."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.artifact import File
from orchestrator.artifacts.bundle import write_bundle
from orchestrator.artifacts.copy import copy_job
from orchestrator.artifacts.repair import ThisMachine
from orchestrator.cache_room import INPUTS
from orchestrator.errors import StoreError
from orchestrator.store import open_store
from orchestrator.store.input_cache import InputCache
from tests.orchestrator.artifacts.published import Published, in_folder, publish_job

__all__ = ["in_folder"]

NO_ROOM = "the folder for temporary files: cannot be written: "
ADVICE = "; set TMPDIR to a folder with more room"
_WITHOUT_TEMPORARY_FILES = """
import sys, tempfile
from orchestrator.cli import main

tempfile.tempdir = sys.argv.pop(1)
sys.exit(main())
"""
"""The command line where the folder for temporary files cannot be written."""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT_TEMPORARY_FILES, "/dev/null", "artifacts", *words],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [
        ("push", "job.yaml", "--to", "other"),
        ("verify", "job.yaml", "--repair", "--from", "other"),
    ],
    ids=lambda words: words[0],
)
def test_temporary_files_without_room_are_named(
    in_folder: Published, words: tuple[str, ...]
) -> None:
    in_folder.store.delete(in_folder.blob(b"[]"))
    done = run(*words)
    assert (done.returncode, "Traceback" in done.stderr) == (3, False), done.stderr
    assert f"{NO_ROOM}Not a directory{ADVICE}" in done.stderr


@pytest.fixture
def small_disk() -> Iterator[Callable[[], None]]:
    """A call after which this process writes no large files."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_becomes_full_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_disk: Callable[[], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_bytes(b"w" * 200_000)
    store = publish_job(tmp_path, str(tmp_path / "store"), checkpoint=tmp_path / "model").store
    small_disk()
    with pytest.raises(StoreError, match=f"^{NO_ROOM}File too large{ADVICE}$"):
        copy_job(store, open_store("other"), "small", say=lambda line: None)
    with pytest.raises(StoreError, match=f"^{NO_ROOM}File too large{ADVICE}$"):
        write_bundle(store, "small", Path("x.tar"), reports={}, has_weights=True, key=None)


def test_a_cache_that_cannot_be_read_repairs_nothing(tmp_path: Path) -> None:
    kept = tmp_path / INPUTS / ("0" * 64)
    kept.mkdir(parents=True)  # reading a folder is an error of the disk
    file = File(path="x", sha256=kept.name, size=kept.stat().st_size)
    assert not ThisMachine(InputCache(tmp_path, 2**30)).fetch(file, tmp_path / "path")
