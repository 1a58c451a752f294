"""Copies of a job's results are complete, verified, and resume after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.artifacts import copy as copying
from orchestrator.artifacts.copy import Copied, copy_job
from orchestrator.digests import Digests
from orchestrator.errors import IntegrityError, JobError
from orchestrator.store import Store, open_store
from orchestrator.store.folder import FolderStore
from orchestrator.store.publish import load_manifest, manifest_name, publish_manifest
from tests.orchestrator.artifacts.published import Published, publish_with_outside, published

__all__ = ["published"]

RUN = "runs/20260101T000000-a"


@pytest.fixture
def target(tmp_path: Path, published: Published) -> Store:
    """An empty store. The published job also has a run that left nothing else."""
    published.store.write(f"{RUN}/run.json", b"{}")
    published.store.write(f"{RUN}/logs/pretrain/1/rank0/000001.log", b"line\n")
    published.store.write("runs/20250101T000000-b/run.json", b"of another job")
    return open_store(str(tmp_path / "target"))


def copy(source: Store, target: Store) -> Copied:
    return copy_job(source, target, "small", say=lambda line: None)


def contents(store: Store) -> dict[str, bytes | None]:
    tops = ("blobs", "manifests", "jobs", "runs", "publishing")
    return {name: store.read(name) for top in tops for name in store.names(top)}


def test_a_copy_has_the_results_of_the_job_and_nothing_else(
    published: Published, target: Store
) -> None:
    copied = copy(published.store, target)
    wanted = contents(published.store)
    del wanted["runs/20250101T000000-b/run.json"]
    assert contents(target) == wanted
    assert (copied.num_new_results, copied.num_new_blobs, copied.num_new_run_files) == (2, 4, 2)


def test_a_second_copy_transfers_nothing(published: Published, target: Store) -> None:
    copy(published.store, target)
    copied = copy(published.store, target)
    assert (copied.num_new_results, copied.num_new_blobs, copied.num_new_run_files) == (0, 0, 0)
    assert (copied.num_results, copied.num_blobs, copied.num_runs) == (2, 4, 1)


def test_the_record_of_a_run_is_written_after_its_events(
    published: Published, target: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [f"{RUN}/events/{n:06}.json" for n in range(40)]
    for name in events:
        published.store.write(name, b"{}")
    written: list[str] = []
    step = FolderStore.write

    def write(store: FolderStore, name: str, content: bytes) -> None:
        step(store, name, content)
        written.append(name)

    monkeypatch.setattr(FolderStore, "write", write)
    assert copy(published.store, target).num_new_run_files == 42
    names = [name for name in written if name.startswith(RUN)]
    assert (len(names), names[-1]) == (42, f"{RUN}/run.json")
    assert set(events) < set(target.names(RUN))


def test_results_come_back_as_they_were(published: Published, target: Store) -> None:
    before = contents(published.store)
    copy(published.store, target)
    for top in ("blobs", "manifests", "jobs"):
        for name in published.store.names(top):
            published.store.delete(name)
    copy(target, published.store)
    assert contents(published.store) == before


def test_a_damaged_blob_is_not_copied_and_no_manifest_is(
    published: Published, target: Store
) -> None:
    published.store.write(published.blob(b"weights"), b"weighty")
    with pytest.raises(IntegrityError, match="differs from its sha256"):
        copy(published.store, target)
    assert target.names("manifests") == target.names("jobs") == []


def test_a_blob_that_changes_before_its_upload_ends_the_copy(
    published: Published, target: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = FolderStore.upload

    def change_and_upload(store: FolderStore, name: str, path: Path) -> Digests:
        path.write_bytes(b"another process wrote here")
        return step(store, name, path)

    monkeypatch.setattr(FolderStore, "upload", change_and_upload)
    with pytest.raises(IntegrityError, match=r"/\w{32}: changed while it was uploaded; run again$"):
        copy(published.store, target)
    assert target.names("manifests") == target.names("jobs") == []


def test_blobs_that_the_target_would_not_name_are_not_copied(
    published: Published, target: Store
) -> None:
    key = published.plan["pretrain"].key
    manifest = load_manifest(published.store, key)
    assert manifest is not None
    own = manifest.model_copy(update={"artifacts": {}, "provenance": {"job": "theirs"}})
    publish_manifest(target, own)
    said: list[str] = []
    copied = copy_job(published.store, target, "small", say=said.append)
    assert said[0] == "pretrain: the target has another result of this Key, which stays"
    assert (copied.num_new_results, copied.num_new_blobs) == (1, 1)
    assert load_manifest(target, key) == own


def test_a_missing_blob_of_the_same_result_is_copied_again(
    published: Published, target: Store
) -> None:
    copy(published.store, target)
    target.delete(published.blob(b"weights"))
    assert copy(published.store, target).num_new_blobs == 1


def test_a_blob_that_vanishes_meanwhile_is_copied_and_counted(
    published: Published, target: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(published.store, target)
    said: list[str] = []
    run = copying._Copy.run

    def run_and_lose(one: copying._Copy, run_id: str) -> None:
        run(one, run_id)
        target.delete(published.blob(b"weights"))

    monkeypatch.setattr(copying._Copy, "run", run_and_lose)
    assert copy_job(published.store, target, "small", say=said.append).num_new_blobs == 1
    assert said == ["copied 1 file, 7 B; 0 files left"]


def test_a_copy_says_how_far_it_is(
    published: Published, target: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "SAY_EVERY_S", 0.0)
    said: list[str] = []
    copy_job(published.store, target, "small", say=said.append)
    assert [line.partition("; ")[2] for line in said[:4]] == [
        "3 files left",
        "2 files left",
        "1 file left",
        "0 files left",
    ]
    assert said[4:] == ["copied 1 file of runs", "copied 2 files of runs"]


def test_files_from_outside_the_job_are_copied_if_they_are_there(
    published: Published, target: Store
) -> None:
    name = publish_with_outside(published, b"backbone")
    assert copy(published.store, target).num_new_blobs == 5
    assert target.read(name) == b"backbone"
    published.store.delete(name)
    assert copy(published.store, open_store("third")).num_new_blobs == 4


def test_a_later_run_of_the_job_stays_the_last_one(published: Published, target: Store) -> None:
    document = published.store.read("jobs/small/latest.json") or b""
    later = document.replace(b"20260101T000000-a", b"20270101T000000-a")
    target.write("jobs/small/latest.json", later)
    assert not copy(published.store, target).is_latest
    assert target.read("jobs/small/latest.json") == later


def test_a_job_that_never_ran_cannot_be_copied(target: Store, published: Published) -> None:
    with pytest.raises(JobError, match="other: has not run with the store"):
        copy_job(published.store, target, "other", say=lambda line: None)


_SLOW = """
import sys, time
from orchestrator.artifacts import copy
from orchestrator.store import open_store
from orchestrator.store.folder import FolderStore

step = FolderStore._replace
def slow(self, draft, name):
    print(name, flush=True)
    time.sleep(60 if name.startswith(sys.argv[3]) else 0)
    step(self, draft, name)
FolderStore._replace = slow
copy.copy_job(open_store(sys.argv[1]), open_store(sys.argv[2]), "small", say=print)
"""
"""A copy that stops before the first write of a kind, to be killed there."""


@pytest.mark.parametrize("killed_at", ["blobs/", "runs/", "publishing/", "jobs/"])
def test_a_killed_copy_leaves_no_manifest_without_blobs_and_resumes(
    published: Published, target: Store, killed_at: str
) -> None:
    arguments = (published.store.uri, target.uri, killed_at)
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert any(line.startswith(killed_at) for line in process.stdout)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    if target.names("manifests"):
        assert len(target.names("blobs")) == 4
    assert target.names("jobs") == []
    copy(published.store, target)
    assert target.read(manifest_name(published.plan["measured"].key)) is not None
    assert len(target.names("blobs")) == 4
