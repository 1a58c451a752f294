"""A full disk is an error that says where, leaves no half files, and passes once there is room."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.artifact import Artifact
from orchestrator.artifacts.fetch import fetch_output
from orchestrator.cluster.machine import scratch_folder
from orchestrator.errors import MachineError, StoreError, StoreRefusedError
from orchestrator.store import open_store
from orchestrator.store.checkpoints import commit_checkpoint, fetch_newest_checkpoint
from orchestrator.store.publish import fetch_artifact, publish_artifact
from orchestrator.store.training import Training

ROOT = Path(__file__).parents[3]
DISK_MIB, OUTPUT_MIB, FILLER_MIB = 40, 12, 32
KEY = "d" * 64
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


@pytest.mark.parametrize(
    "check",
    [
        "check_publishing",
        "check_small_writes",
        "check_a_checkpoint",
        "check_fetching",
        "check_getting",
    ],
)
def test_full_disk(tmp_path: Path, check: str) -> None:
    """Run a check below in a process that sees a small disk in the folder `disk`."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "output" / "deep").mkdir(parents=True)
    (tmp_path / "output" / "large").write_bytes(os.urandom(OUTPUT_MIB * 2**20))
    (tmp_path / "output" / "deep" / "small").write_bytes(b"small")
    mount = f'mount -t tmpfs -o size={DISK_MIB}m none "$0/disk" && exec "$@" "$0"'
    code = f"import pathlib, sys; from {__name__} import *; {check}(pathlib.Path(sys.argv[1]))"
    command = ["unshare", "--mount", "sh", "-c", mount, str(tmp_path), sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def check_publishing(folder: Path) -> None:
    store = open_store(str(folder / "disk" / "store"))
    filler = _fill(folder)
    with pytest.raises(StoreRefusedError) as caught:
        publish_artifact(store, folder / "output")
    assert str(caught.value) == (
        f"store {store.uri}: cannot write large: No space left on device; free some space on its "
        "disk, or choose another store with `store:` in the job or --store"
    )
    assert all("large" not in path.name and path.name[0] != "." for path in _files(folder))
    filler.unlink()
    artifact = publish_artifact(store, folder / "output")
    fetch_artifact(store, artifact, folder / "fetched")


def check_small_writes(folder: Path) -> None:
    store = open_store(str(folder / "disk" / "store"))
    store.write("jobs/name/latest.json", b"old")
    filler = _fill(folder, wholly=True)
    for write in (store.write, store.create):
        with pytest.raises(StoreRefusedError, match=r"cannot write jobs/name/latest.*free some"):
            write("jobs/name/latest.json", bytes(100_000))
    with pytest.raises(StoreRefusedError, match=r"cannot write leases/k/1\.json: No space left"):
        store.create("leases/k/1.json", bytes(100_000))
    assert store.read("jobs/name/latest.json") == b"old"
    assert _files(folder) == [filler, folder / "disk" / "store" / "jobs" / "name" / "latest.json"]
    assert not (folder / "disk" / "store" / "leases").exists()
    filler.unlink()
    assert store.create("leases/k/1.json", bytes(100_000))


def check_a_checkpoint(folder: Path) -> None:
    store, training = open_store(str(folder / "disk" / "store")), Training(f"train/{KEY}", 1)
    (folder / "first").mkdir()
    (folder / "first" / "state").write_bytes(b"first")
    commit_checkpoint(store, training, folder / "first")
    filler = _fill(folder)
    with pytest.raises(StoreError, match="No space left on device; free some space on its disk"):
        commit_checkpoint(store, training, folder / "output")
    found = fetch_newest_checkpoint(store, training, folder / "resumed")
    assert found.damaged == ()
    assert (folder / "resumed" / "state").read_bytes() == b"first"
    filler.unlink()
    commit_checkpoint(store, training, folder / "output")
    fetch_newest_checkpoint(store, training, folder / "resumed")
    assert (folder / "resumed" / "deep" / "small").read_bytes() == b"small"


def check_fetching(folder: Path) -> None:
    """A worker fetches its inputs to a scratch folder."""
    store = open_store(str(folder / "store"))
    artifact = publish_artifact(store, folder / "output")
    tempfile.tempdir = str(folder / "disk")

    def fetch(*, is_full: bool) -> None:
        with scratch_folder("inputs-") as scratch:
            if is_full:
                _fill(folder)
            fetch_artifact(store, artifact, scratch)

    with pytest.raises(MachineError) as caught:
        fetch(is_full=True)
    assert "a disk is full: " in str(caught.value)
    assert f"No space left on device: '{folder}/disk/inputs-" in str(caught.value)
    assert "free some space, or set TMPDIR" in str(caught.value)
    (filler,) = _files(folder)
    filler.unlink()
    fetch(is_full=False)


def check_getting(folder: Path) -> None:
    """`artifacts get` writes to a folder of the user."""
    store = open_store(str(folder / "store"))
    artifact: Artifact = publish_artifact(store, folder / "output")
    filler, target = _fill(folder), folder / "disk" / "model"
    with pytest.raises(StoreError) as caught:
        fetch_output(store, artifact, target, key=KEY)
    assert str(caught.value) == (
        f"{target}: cannot be written: No space left on device; free some space there, or choose "
        "another folder"
    )
    assert _files(folder) == [filler]
    filler.unlink()
    assert fetch_output(store, artifact, target, key=KEY) == 2


def _fill(folder: Path, *, wholly: bool = False) -> Path:
    """Fill the disk, unless `wholly` so that a small file still fits. Returns the filling file."""
    filler = folder / "disk" / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            for _ in range(2 * DISK_MIB if wholly else FILLER_MIB):
                file.write(bytes(2**20))
        except OSError:
            assert wholly
    return filler


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "disk").rglob("*") if path.is_file())
