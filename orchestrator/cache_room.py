"""The room that this machine gives to copies of what is in S3 and in stores: inputs and data sets.

    CACHES/inputs/<sha256>      a file of an input
    CACHES/data/<name>/         a data set, see `pipelines.data.node_cache`

One limit holds for both together. The least recently used goes first, and never what is in use. So
if all of it is in use, there may be more than the limit.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from orchestrator.account import complete_environment
from orchestrator.process import number_in

LIMIT_VARIABLE = "ORCHESTRATOR_CACHE_GIB"
DEFAULT_GIB = 200.0
"""As much as the default limit of the cache of shards. COCO takes 20 GiB."""

INPUTS, DATA = "inputs", "data"
LOCK = "lock"
"""The lock file of a data set, held by the process that fetches it."""
_IN_USE, _SIZE = "in_use", "size"
_DRAFT_AGE_S = 3600.0
"""Nobody has been writing a draft for longer than this."""

_held: dict[Path, int] = {}
"""The descriptors with which this process and its children hold data sets."""


class _Kept(NamedTuple):
    path: Path
    size: int
    used_ns: int
    """When it was last used, by the clock of the file system."""


def cache_folder() -> Path:
    """The cache folder, in XDG_CACHE_HOME or else in ~/.cache; it may not exist yet."""
    complete_environment()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orchestrator"


def limit_bytes(environ: Mapping[str, str]) -> float:
    """The limit that the user has set. Raises JobError if it is not a number."""
    return 2**30 * number_in(environ, LIMIT_VARIABLE, "GiB", DEFAULT_GIB, may_be_0=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` within the block, one process at a time. Missing folders are
    created, also if another process removes them meanwhile."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = path.open("a")
        except FileNotFoundError:
            continue
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_same(lock.fileno(), path):
                yield
                return


def hold(home: Path) -> None:
    """Keep the data set in `home` while this process or a child that it forked is running. The
    caller holds the lock of `home`."""
    if home in _held and _is_same(_held[home], home / _IN_USE):
        os.utime(home / _IN_USE)
        return
    descriptor = os.open(home / _IN_USE, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.utime(home / _IN_USE)
    _held[home] = descriptor


def note_size(home: Path) -> None:
    """Measure the complete data set in `home` and write its size down. The caller holds the lock of
    `home`."""
    (home / _SIZE).write_text(str(_measure(home)))


def bytes_on_disk(stat: os.stat_result) -> int:
    """Return the room that a file takes on the disk."""
    return stat.st_blocks * 512  # the unit of `st_blocks`, whatever the file system


def make_room(caches: Path, num_bytes: int, limit: float) -> None:
    """Delete what was not used for the longest time, until `num_bytes` more fit the limit and the
    disk, or the rest is in use."""
    with locked(caches / "evicting.lock"):
        _delete_leftovers(caches)
        kept = sorted(_kept(caches), key=lambda one: one.used_ns)
        excess = sum(one.size for one in kept) + num_bytes - limit
        missing = num_bytes - shutil.disk_usage(caches).free
        for one in kept:
            if excess <= 0 and missing <= 0:
                return
            if _evict(one.path):
                excess -= one.size
                missing -= one.size


def _kept(caches: Path) -> Iterator[_Kept]:
    for path in _entries(caches / INPUTS):
        with suppress(FileNotFoundError):
            stat = path.stat()
            yield _Kept(path, bytes_on_disk(stat), stat.st_mtime_ns)
    for home in _entries(caches / DATA):
        with suppress(FileNotFoundError, NotADirectoryError):
            size = _size_of(home)
            # A data set of an older version, or of a killed fetch, has no mark of its use.
            mark = home / _IN_USE
            used_ns = (mark if mark.exists() else home).stat().st_mtime_ns
            if size is not None:
                yield _Kept(home, size, used_ns)


def _delete_leftovers(caches: Path) -> None:
    """Delete what killed processes left. The caller holds the lock of evictions, so nobody else is
    deleting a hidden data set."""
    for doomed in _entries(caches / DATA, hidden=True):
        # Without errors: what cannot be deleted must not keep others from their data.
        shutil.rmtree(doomed, ignore_errors=True)
    for draft in _entries(caches / INPUTS, hidden=True):
        with suppress(OSError):
            if time.time() - draft.stat().st_mtime > _DRAFT_AGE_S:
                draft.unlink()


def _entries(folder: Path, *, hidden: bool = False) -> list[Path]:
    """What has a whole name in `folder`. Hidden are the drafts and what is being deleted."""
    try:
        return [path for path in folder.iterdir() if (path.name[0] == ".") is hidden]
    except FileNotFoundError:
        return []


def _size_of(home: Path) -> int | None:
    """The size that was written down, or else the present one. None for a data set that is being
    fetched: measuring it takes long, and it does not count until it is complete."""
    try:
        return int((home / _SIZE).read_text())
    except (FileNotFoundError, ValueError):
        return None if _is_locked(home) else _measure(home)


def _measure(home: Path) -> int:
    sizes: dict[int, int] = {}
    for folder, _, files in os.walk(home):
        for name in files:
            with suppress(FileNotFoundError):  # a fetch that began meanwhile renames its files
                stat = Path(folder, name).lstat()
                sizes[stat.st_ino] = bytes_on_disk(stat)
    return sum(sizes.values())


def _is_locked(home: Path) -> bool:
    """Whether a process is fetching the data set in `home`."""
    try:
        with (home / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _evict(path: Path) -> bool:
    """Delete an input or a data set. Returns False if it is in use."""
    if path.is_dir():
        return _evict_data(path)
    # A link to the file is in the folder of a worker. Without this one, no room is gained.
    if path.stat().st_nlink > 1:
        return False
    path.unlink(missing_ok=True)
    return True


def _evict_data(home: Path) -> bool:
    with (home / LOCK).open("a") as lock, (home / _IN_USE).open("a") as use:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # Renamed first, so that nobody finds half a data set. The locks are in it: who waits for
        # one notices that the file has moved.
        doomed = home.with_name(f".{home.name}.{uuid.uuid4().hex}")
        home.rename(doomed)
        shutil.rmtree(doomed)
    return True


def _is_same(descriptor: int, path: Path) -> bool:
    """Whether the open file still has the name `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
