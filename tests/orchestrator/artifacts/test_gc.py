"""gc removes what nothing needs, and nothing else."""

from __future__ import annotations

import hashlib
import os
import time
import tracemalloc
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import cast

import boto3
import pytest

from orchestrator.artifacts import survey
from orchestrator.artifacts.gc import UNFINISHED, Removed, collect_garbage
from orchestrator.artifacts.listing import stored_keys
from orchestrator.artifacts.survey import BLOBS, RESULTS, RESUME_STATE, RUNS
from orchestrator.errors import IntegrityError, StoreError
from orchestrator.runs.last_run import LastRun, load_last_run
from orchestrator.store import Store, open_store
from orchestrator.store.lease import take_lease
from orchestrator.store.marks import MARKED_WORK_S, refer_to_blobs
from orchestrator.store.outside import note_outside
from orchestrator.store.protocol import Entry
from orchestrator.store.publish import blob_name, load_manifest, manifest_name
from tests.orchestrator.artifacts.published import Published, published
from tests.orchestrator.leases import bare_lease

__all__ = ["published"]

KEY = "e" * 64
RUN = "20250101T000000-b"
LOOSE = blob_name("f" * 64)


def collect(
    store: Store,
    *,
    age_s: float = 3600.0,
    grace_s: float = 60.0,
    has_results: bool = False,
    is_dry: bool = False,
) -> dict[str, Removed]:
    """Run gc in a store in which everything is `age_s` older than it is."""
    older = cast(Store, Older(store, by_s=age_s)) if age_s else store
    removed = collect_garbage(
        older, grace_s=grace_s, blob_grace_s=grace_s, has_results=has_results, is_dry=is_dry
    )
    return {one.kind: one for one in removed}


class Older:
    """A store in which everything was written earlier."""

    def __init__(self, store: Store, *, by_s: float) -> None:
        self._store, self._by_s = store, by_s
        self.uri = "older"

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def entries(self, prefix: str) -> Iterator[Entry]:
        for entry in self._store.entries(prefix):
            yield entry._replace(age_s=entry.age_s + self._by_s)


def needed_names(store: Store) -> set[str]:
    return {name for top in ("blobs", "manifests", "jobs", "runs") for name in store.names(top)}


@pytest.fixture
def littered(published: Published) -> Store:
    """The store of a published job, with something of each kind that nothing needs."""
    store = published.store
    store.write("runs/20260101T000000-a/run.json", b"{}")
    store.write("runs/20250101T000000-b/run.json", b"old")
    store.write("runs/20250101T000000-b/logs/pretrain/1/rank0/000001.log", b"old")
    store.write(f"train/{KEY}/checkpoints/00000001/model", b"12345")
    store.write(f"train/{KEY}/checkpoints/00000001.json", b"{}")
    store.write(LOOSE, b"loose")
    return store


def test_only_what_nothing_needs_is_removed(published: Published, littered: Store) -> None:
    removed = collect(littered)
    assert {kind: one.num for kind, one in removed.items()} == {
        RESULTS: 0,
        RESUME_STATE: 1,
        RUNS: 1,
        BLOBS: 1,
        UNFINISHED: 0,
    }
    assert (removed[RESUME_STATE].num_objects, removed[RESUME_STATE].size) == (2, 7)
    assert littered.names("train") == []
    assert littered.names("runs") == ["runs/20260101T000000-a/run.json"]
    assert len(littered.names("blobs")) == 4
    assert littered.names("gc") == []


def test_a_dry_run_reports_the_same_and_removes_nothing(littered: Store) -> None:
    before = needed_names(littered)
    dry = collect(littered, is_dry=True)
    assert needed_names(littered) == before
    assert dry == collect(littered)


def test_what_is_young_stays(littered: Store) -> None:
    removed = collect(littered, grace_s=7200)
    assert sum(one.num for one in removed.values()) == 0


def test_resume_state_of_a_live_lease_stays_with_its_trials_and_runs(littered: Store) -> None:
    digest = LOOSE.rpartition("/")[2]
    trial = b'{"checkpoint": {"files": [{"path": "m", "sha256": "%s", "size": 5}]}}'
    littered.write(f"train/{KEY}/trials/00001/trial-1.json", trial % digest.encode())
    littered.write(f"train/{KEY}/runs/20250101T000000-b", b"")
    lease = bare_lease(KEY, 1, duration_s=7200)
    take_lease(littered, lease)
    assert sum(one.num for one in collect(littered).values()) == 0
    littered.write(
        f"leases/{KEY}/00000001.json",
        lease.model_copy(update={"state": "released"}).model_dump_json().encode(),
    )
    assert {one.num for one in collect(littered).values()} == {0, 1}
    assert littered.names("train") == []
    assert LOOSE not in littered.names("blobs")


def test_results_stay_unless_named_and_not_while_a_job_or_a_pin_names_them(
    published: Published, littered: Store
) -> None:
    pretrain, measured = (
        manifest_name(published.plan[name].key) for name in ("pretrain", "measured")
    )
    assert collect(littered, has_results=True)[RESULTS].num == 0
    littered.delete("jobs/small/latest.json")
    assert collect(littered)[RESULTS].num == 0
    littered.write(f"pins/{published.plan['measured'].key}.json", b"{}")
    # The pinned result was measured on the other one.
    assert collect(littered, has_results=True)[RESULTS].num == 0
    littered.delete(f"pins/{published.plan['measured'].key}.json")
    littered.write(f"pins/{published.plan['pretrain'].key}.json", b"{}")
    removed = collect(littered, has_results=True)
    assert removed[RESULTS].examples == (measured,)
    assert littered.names("manifests") == [pretrain]
    assert len(littered.names("blobs")) == 3


def test_a_damaged_manifest_stops_gc_before_it_removes_anything(
    published: Published, littered: Store
) -> None:
    littered.write(manifest_name(published.plan["pretrain"].key), b"{}")
    with pytest.raises(IntegrityError, match="not a manifest"):
        collect(littered)
    assert LOOSE in littered.names("blobs")


def test_a_run_with_more_files_than_a_round_can_delete_goes_in_several(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    names = [f"runs/{RUN}/events/{number:03}.json" for number in range(50)]
    for name in [*names, f"runs/{RUN}/run.json"]:
        store.write(name, b"{}")
    now_s = count()  # a round has time for some ten deletions
    removed = collect_garbage(
        cast(Store, Older(store, by_s=3600.0)),
        grace_s=60.0,
        blob_grace_s=60.0,
        has_results=False,
        is_dry=False,
        clock=lambda: next(now_s) * MARKED_WORK_S / 10,
    )
    assert store.names("runs") == []
    assert {one.kind: one.num_objects for one in removed}[RUNS] == 51


def test_files_from_outside_stay_with_the_stage_that_reads_them(littered: Store) -> None:
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("finished", "running")}
    for name, digest in digests.items():
        littered.write(blob_name(digest), name.encode())
    manifest = load_manifest(littered, next(stored_keys(littered)))
    assert manifest is not None
    recipe = {"inputs": {"backbone": {"sha256": digests["finished"]}}}
    other = manifest.model_copy(update={"key": "0" * 64, "recipe": recipe})
    littered.write(manifest_name(other.key), other.to_json())
    note_outside(littered, KEY, [digests["running"]])
    assert take_lease(littered, bare_lease(KEY, 1, duration_s=7200)) is not None
    collect(littered)
    assert all(littered.read(blob_name(digest)) for digest in digests.values())
    littered.clear("leases")
    collect(littered)
    kept = [name for name, digest in digests.items() if littered.read(blob_name(digest))]
    assert kept == ["finished"]


def test_only_new_jobs_are_read_again(
    littered: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def load(store: Store, job: str) -> LastRun | None:
        read.append(job)
        return load_last_run(store, job)

    monkeypatch.setattr(survey, "load_last_run", load)
    collect(littered)
    assert read == ["small"]


def test_announced_blobs_stay(littered: Store) -> None:
    def commit() -> int:
        return collect(littered)[BLOBS].num

    assert refer_to_blobs(littered, [LOOSE], ensure=lambda: None, commit=commit) == 0
    assert commit() == 1


def test_drafts_of_killed_writers_go_when_they_are_old(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write("runs/r/run.json", b"{}")
    for name, age_s in ((f".run.json.{'a' * 32}", 7200), (f".run.json.{'b' * 32}", 0)):
        draft = tmp_path / "runs/r" / name
        draft.write_bytes(b"123")
        os.utime(draft, (time.time() - age_s,) * 2)
    assert collect(store, age_s=0, grace_s=3600)[UNFINISHED] == Removed(UNFINISHED, 1, 1, 3)
    assert [path.name for path in (tmp_path / "runs/r").glob(".run*")] == [f".run.json.{'b' * 32}"]


def test_unfinished_uploads_are_aborted(bucket: str) -> None:
    client = boto3.client("s3")
    for key in ("some/prefix/blobs/new", "other/new"):
        upload = client.create_multipart_upload(Bucket=bucket, Key=key)
        client.upload_part(
            Bucket=bucket, Key=key, UploadId=upload["UploadId"], PartNumber=1, Body=b"123"
        )
    removed = collect(open_store(f"s3://{bucket}/some/prefix"), age_s=0, grace_s=0)
    assert removed[UNFINISHED] == Removed(UNFINISHED, 1, 1, 3)
    left = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert [upload["Key"] for upload in left] == ["other/new"]


class Endless:
    """A store with very many unneeded blobs, which it makes up as they are listed."""

    uri = "endless"

    def __init__(self, num: int) -> None:
        self._num = num

    def entries(self, prefix: str) -> Iterator[Entry]:
        for number in range(self._num if prefix == "blobs" else 0):
            yield Entry(blob_name(f"{number:064x}"), 10, 1e9)


def test_memory_does_not_grow_with_the_store() -> None:
    peaks = [_peak_of(number) for number in (20_000, 100_000)]
    assert peaks[1] < 1.5 * peaks[0]


def _peak_of(num_blobs: int) -> int:
    tracemalloc.start()
    removed = collect(cast(Store, Endless(num_blobs)), age_s=0, is_dry=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert removed[BLOBS].num == num_blobs
    return peak


def test_a_round_that_has_no_time_left_to_delete_is_an_error(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    store.write(LOOSE, b"loose")
    now_s = count()  # each look at the clock comes later than a round may last
    with pytest.raises(StoreError, match=r"^store older: it took more than \d+ s to check .*again"):
        collect_garbage(
            cast(Store, Older(store, by_s=3600.0)),
            grace_s=60.0,
            blob_grace_s=60.0,
            has_results=False,
            is_dry=False,
            clock=lambda: next(now_s) * 2 * MARKED_WORK_S,
        )
    assert store.read(LOOSE) == b"loose"
