"""Examine the machine of this process: its limits, packages, store, data and mmcv's ops.

Imports no Ray, so that the driver's own machine is examined before it joins a cluster.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import resource
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from orchestrator.cache_room import cache_folder
from orchestrator.cluster.hardware import MEMINFO
from orchestrator.cluster.job_data import DataQuestion
from orchestrator.doctor.check import DRIVER, Check
from orchestrator.doctor.facts import (
    CredentialFacts,
    DataFacts,
    Findings,
    MachineFacts,
    OpsFacts,
    Room,
    StoreFacts,
    Transfer,
)
from orchestrator.doctor.machine import SHM, judge_clock, judge_machine
from orchestrator.doctor.versions import PACKAGES, PYTHON
from orchestrator.errors import OrchestratorError, StoreError
from orchestrator.s3.bucket import SCHEME
from orchestrator.store import Store, open_store
from orchestrator.store.protocol import Limits

SPEED_BYTES = 2**25
"""The file that is uploaded and downloaded: two parts of a transfer."""
READ_BYTES, READ_S = 2**27, 5.0
"""Reading a sample of data ends at either."""
LEAST_READ_BYTES = 2**22
"""A smaller sample is read in milliseconds, which tells nothing about the speed."""

CGROUP_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)
"""The memory that a container may use, and uses, of both versions of cgroups."""
_PIECE_BYTES = 2**20


@dataclass(frozen=True)
class Questions:
    """What to examine on a machine."""

    store_uri: str | None = None
    marker: str | None = None
    """What the driver wrote to the store."""
    data: tuple[DataQuestion, ...] = ()
    ops: str | None = None
    """`module:function` that returns the implementation of each op of mmcv. None: they are not
    needed."""


def examine(questions: Questions) -> Findings:
    """Return what is found on this machine. Takes seconds; faults are part of what is found."""
    uri = questions.store_uri
    return Findings(
        packages=find_packages(),
        machine=find_machine(),
        store=None if uri is None else examine_store(uri, questions.marker),
        data=tuple(_examine_data(question) for question in questions.data),
        ops=None if questions.ops is None else _examine_ops(questions.ops),
    )


def quick_checks(limits: Limits) -> tuple[Check, ...]:
    """Return the checks of this machine that take milliseconds. `limits` is the answer of a probe
    of the run's store."""
    skew_s = limits.clock_skew_s
    clock = () if skew_s is None else (judge_clock(skew_s, DRIVER, other="store"),)
    return (*judge_machine(find_machine(), DRIVER), *clock)


def find_packages() -> dict[str, str | None]:
    return {PYTHON: platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def find_machine() -> MachineFacts:
    """Return the limits of this process and its machine. Takes milliseconds."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    places = {"temporary files": Path(tempfile.gettempdir()), "cache": cache_folder()}
    return MachineFacts(
        rooms=tuple(_room(what, path) for what, path in places.items()),
        shared_memory=_room("shared memory", Path(SHM)) if Path(SHM).is_dir() else None,
        open_files=None if soft == resource.RLIM_INFINITY else soft,
        free_memory_bytes=_free_memory_bytes(),
    )


def _room(what: str, path: Path) -> Room:
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    usage = shutil.disk_usage(existing)
    return Room(what, str(path), usage.free, usage.total)


def _free_memory_bytes() -> int | None:
    """The memory that processes may still take: of the machine, or of the container if that is
    less."""
    found: list[int] = []
    with suppress(OSError):
        available = re.search(r"^MemAvailable:\s*(\d+) kB$", MEMINFO.read_text(), re.MULTILINE)
        found += [int(available[1]) * 2**10] if available else []
    for limit, usage in CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # another version, or `max`
            found.append(int(Path(limit).read_text()) - int(Path(usage).read_text()))
    return min(found, default=None)


def examine_store(uri: str, marker: str | None) -> StoreFacts:
    """Probe a store, and measure an upload and a download."""
    store = open_store(uri)
    try:
        limits = store.probe()
        facts = _store_facts(store, limits)
        if marker is not None and store.read(marker) is None:
            return replace(facts, is_drivers=False)
        return _with_speeds(facts, store)
    except (StoreError, OSError) as err:  # OSError: the disk of this machine
        return StoreFacts(uri, error=str(err))


def _store_facts(store: Store, limits: Limits) -> StoreFacts:
    is_remote = store.uri.startswith(SCHEME)
    return StoreFacts(
        store.uri,
        # In S3, each of them has a check of its own.
        warnings=() if is_remote else limits.warnings,
        is_for_one_run=limits.is_for_one_run,
        clock_skew_s=limits.clock_skew_s,
        credentials=_credentials() if is_remote else None,
    )


def _credentials() -> CredentialFacts | None:
    from orchestrator.s3.client import credential_validity  # noqa: PLC0415  for S3 only

    found = credential_validity()
    return None if found is None else CredentialFacts(*found)


def _with_speeds(facts: StoreFacts, store: Store) -> StoreFacts:
    name = f"probe-{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix="orchestrator-doctor-") as folder:
        there, back = Path(folder, "upload"), Path(folder, "download")
        there.write_bytes(os.urandom(SPEED_BYTES))
        try:
            upload = _timed(lambda: store.upload(name, there), SPEED_BYTES)
            keeps_checksums = _keeps_checksums(store, name)
            download = _timed(lambda: store.download(name, back), SPEED_BYTES)
        finally:
            store.delete(name)
        if back.read_bytes() != there.read_bytes():
            raise StoreError(
                f"store {store.uri}: returns other bytes than were uploaded; check the server, the "
                "disk and the proxies between here and it"
            )
    return replace(facts, upload=upload, download=download, keeps_checksums=keeps_checksums)


def _keeps_checksums(store: Store, name: str) -> bool | None:
    if not store.uri.startswith(SCHEME):
        return None
    from orchestrator.store.s3 import S3Store  # noqa: PLC0415  boto3 takes half a second to import

    assert isinstance(store, S3Store)
    return store.reports_checksum(name)


def _timed(act: Callable[[], object], num_bytes: int) -> Transfer:
    start_s = time.monotonic()
    act()
    return Transfer(num_bytes, time.monotonic() - start_s)


@contextmanager
def marked(uri: str | None) -> Iterator[str | None]:
    """Write a name to the store, by which other machines recognise it, and delete it afterwards.
    Yields None if the store cannot be written."""
    if uri is None:
        yield None
        return
    store, name = open_store(uri), f"probe-doctor-{uuid.uuid4().hex}"
    try:
        store.write(name, b"")
    except StoreError:  # the examination of the driver's machine reports it
        yield None
        return
    try:
        yield name
    finally:
        with suppress(StoreError):
            store.delete(name)


def _examine_data(question: DataQuestion) -> DataFacts:
    located = partial(DataFacts, question.location, question.stages)
    try:
        digest = question.answer()
        return located(digest, read=_read_sample(question.location))
    except (OrchestratorError, OSError) as err:
        return located(None, error=str(err).splitlines()[0])


def _read_sample(location: str) -> Transfer | None:
    """Read some of the data. None if they are too few for a speed, or made on the machine."""
    if not location.startswith(("/", SCHEME)):
        return None
    pieces = _pieces_in_s3(location) if location.startswith(SCHEME) else _pieces_on_disk(location)
    start_s, num_bytes = time.monotonic(), 0
    for num in pieces:
        num_bytes += num
        if num_bytes >= READ_BYTES or time.monotonic() - start_s > READ_S:
            break
    took_s = time.monotonic() - start_s
    return Transfer(num_bytes, took_s) if num_bytes >= LEAST_READ_BYTES else None


def _pieces_on_disk(location: str) -> Iterator[int]:
    for path in _files(Path(location)):
        with path.open("rb", buffering=0) as file:
            with suppress(OSError):
                # Not from the memory of this machine, which a fingerprint has just filled.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while piece := file.read(_PIECE_BYTES):
                yield len(piece)


def _files(location: Path) -> Iterable[Path]:
    if location.is_file():
        yield location
    for folder, _, names in os.walk(location):
        yield from (Path(folder, name) for name in names)


def _pieces_in_s3(location: str) -> Iterator[int]:
    from orchestrator.store.s3 import S3Store  # noqa: PLC0415  boto3 takes half a second to import

    store = S3Store(location)
    with store.errors("read", ""):
        page = next(store.pages("", deep=True))
        for found in page.get("Contents", ()):
            for piece in store.stream(store.name_of(found["Key"]), size=found["Size"]) or ():
                yield len(piece)


def _examine_ops(entry: str) -> OpsFacts:
    module, _, function = entry.partition(":")
    try:
        return OpsFacts(dict(getattr(importlib.import_module(module), function)()))
    except Exception as err:  # noqa: BLE001  an import of another machine's libraries may raise anything
        return OpsFacts(error=f"{type(err).__name__}: {err}".splitlines()[0])
