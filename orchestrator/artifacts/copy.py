"""Copies a job's results between stores: only what is missing, each byte checked on its way.

Blobs go first, then runs, then manifests, and the record of the job last. So a copy that was killed
has no manifest without its blobs, and the same command continues it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from uuid import uuid4

from orchestrator.artifact import File, Manifest
from orchestrator.artifacts.lineage import input_keys, outside_sha256s
from orchestrator.artifacts.scratch import scratch_folder
from orchestrator.artifacts.survey import runs_of_manifest
from orchestrator.errors import IntegrityError, JobError
from orchestrator.numbers import count_text, size_text
from orchestrator.runs.last_run import LastRun, last_run_name, load_last_run
from orchestrator.store.blobs import files_of, missing_files, publish_with_blobs, stored_files
from orchestrator.store.pool import for_each
from orchestrator.store.protocol import Store
from orchestrator.store.publish import blob_name, fetch_file, load_manifest

FILES_AT_ONCE = 4
"""Files on this disk and in memory at a time. Each transfer of a large one uses more threads."""
SAY_EVERY_S = 5.0


@dataclass
class Copied:
    """What a copy did. Sizes are in bytes."""

    num_results: int = 0
    num_new_results: int = 0
    num_blobs: int = 0
    num_new_blobs: int = 0
    size: int = 0
    new_size: int = 0
    num_runs: int = 0
    num_new_run_files: int = 0
    is_latest: bool = True
    """False if the target knows a later run of the job, which stays its last one."""


@dataclass
class _Copy:
    """A copy in progress."""

    source: Store
    target: Store
    scratch: Path
    say: Callable[[str], None]
    copied: Copied = field(default_factory=Copied)
    _num_left: int = 0
    _said_at_s: float = field(default_factory=time.monotonic)
    _lock: Lock = field(default_factory=Lock)

    def blobs(self, files: Iterable[File]) -> None:
        """Copy the blobs that the target lacks, a few at a time."""
        missing = missing_files(self.target, files)
        self._num_left = len(missing)
        for_each(self.blob, missing, num_threads=FILES_AT_ONCE)

    def blob(self, file: File) -> None:
        name, path = blob_name(file.sha256), self.scratch / uuid4().hex
        try:
            fetch_file(self.source, name, file, path)
            if self.target.upload(name, path).sha256 != file.sha256:
                raise IntegrityError(f"{path}: changed while it was uploaded; run again")
        finally:
            path.unlink(missing_ok=True)
        with self._lock:
            self.copied.num_new_blobs += 1
            self.copied.new_size += file.size
            self._num_left -= 1
            size = size_text(self.copied.new_size)
            done = f"{count_text(self.copied.num_new_blobs, 'file')}, {size}"
            left = count_text(self._num_left, "file")
            self._say_progress(f"copied {done}; {left} left", is_last=not self._num_left)

    def _say_progress(self, text: str, *, is_last: bool = False) -> None:
        now_s = time.monotonic()
        if is_last or now_s - self._said_at_s >= SAY_EVERY_S:
            self._said_at_s = now_s
            self.say(text)

    def run(self, run_id: str) -> None:
        """Copy what a run left. Its record comes last, and always: it changes during a run."""
        there = {entry.name: entry.size for entry in self.target.entries(f"runs/{run_id}")}
        record = f"runs/{run_id}/run.json"
        found = {entry.name: entry.size for entry in self.source.entries(f"runs/{run_id}")}
        self.copied.num_runs += bool(found)
        files = [name for name in found if name != record and there.get(name) != found[name]]
        for_each(self._run_file, files)
        if record in found and self.source.read(record) != self.target.read(record):
            self._run_file(record)

    def _run_file(self, name: str) -> None:
        content = self.source.read(name)
        if content is None:  # deleted since it was listed
            return
        self.target.write(name, content)
        with self._lock:
            self.copied.num_new_run_files += 1
            self._say_progress(
                f"copied {count_text(self.copied.num_new_run_files, 'file')} of runs"
            )

    def manifest(self, manifest: Manifest) -> None:
        is_new = load_manifest(self.target, manifest.key) is None
        outside = stored_files(self.source, outside_sha256s(manifest))
        copy_blob = self._vanished_blob
        kept = publish_with_blobs(self.target, manifest, copy_blob, outside=outside)
        if kept != manifest:
            self.report_kept(manifest)
        self.copied.num_new_results += is_new

    def _vanished_blob(self, file: File) -> None:
        """Copy a blob that the target had when this copy began."""
        self._num_left += 1
        self.blob(file)

    def report_kept(self, manifest: Manifest) -> None:
        self.say(f"{manifest.stage}: the target has another result of this Key, which stays")

    def is_wanted(self, manifest: Manifest) -> bool:
        """Whether the target has no result of this Key, or this one, whose blobs may be missing.

        Two stores may have run the same stage. The target's own result stays, and nothing there
        would name the blobs and runs of this one.
        """
        is_wanted = load_manifest(self.target, manifest.key) in (None, manifest)
        if not is_wanted:
            self.report_kept(manifest)
        return is_wanted


def copy_job(source: Store, target: Store, job_name: str, *, say: Callable[[str], None]) -> Copied:
    """Copy the results of a job's last run: manifests, also of their inputs, blobs, also
    of files from outside the job, and runs.

    Takes memory for the job's manifests, and disk for FILES_AT_ONCE files. Raises JobError if the
    job has no run in `source`, IntegrityError for a damaged blob there, and StoreError.
    """
    last = load_last_run(source, job_name)
    if last is None:
        raise JobError(f"{job_name}: has not run with the store {source.uri}")
    with scratch_folder("copy") as scratch:
        copy = _Copy(source, target, scratch, say)
        manifests = list(manifests_of(source, last))
        wanted = [manifest for manifest in manifests if copy.is_wanted(manifest)]
        outside = (sha256 for manifest in wanted for sha256 in outside_sha256s(manifest))
        files = {file.sha256: file for file in stored_files(source, outside)}
        files |= {file.sha256: file for manifest in wanted for file in files_of(manifest)}
        copy.blobs(files.values())
        runs = [run for manifest in wanted for run in runs_of_manifest(manifest)]
        for run_id in dict.fromkeys([*runs, last.run_id]):
            copy.run(run_id)
        for manifest in wanted:
            copy.manifest(manifest)
    copied = copy.copied
    copied.num_results, copied.num_blobs = len(manifests), len(files)
    copied.size = sum(file.size for file in files.values())
    copied.is_latest = _copy_last_run(source, target, job_name, last)
    return copied


def manifests_of(source: Store, last: LastRun) -> Iterator[Manifest]:
    """Yield the manifests of the finished stages and of all that they were made from, inputs
    first."""
    done: dict[str, Manifest | None] = {}

    def visit(key: str) -> Iterator[Manifest]:
        if key in done:
            return
        manifest = done[key] = load_manifest(source, key)
        if manifest is not None:
            for needed in input_keys(manifest):
                yield from visit(needed)
            yield manifest

    for stage in last.stages.values():
        yield from visit(stage.key)


def _copy_last_run(source: Store, target: Store, job_name: str, last: LastRun) -> bool:
    """Copy the record of the job, unless the target has a later run. An id begins with its time."""
    there = load_last_run(target, job_name)
    if there is not None and there.run_id > last.run_id:
        return False
    content = source.read(last_run_name(job_name))
    if there != last and content is not None:
        target.write(last_run_name(job_name), content)
    return True
