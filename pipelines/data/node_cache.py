"""Keeps data sets from S3 on this machine's disk: fetched once for all processes, complete or
absent.

    data/<name>-<hash of the URI>/
        lock            held by the process that fetches; the others wait
        in_use          held by all processes that read it; its time is the time of the last use
        size            in bytes, for the limit
        objects/        complete objects by identity; with .partial, objects being fetched
        unpacked/       the files of archives, by the archive's identity
        trees/          data sets by the digest of their listing, as hard links to these files
                        (symbolic links on a file system without hard links)

One limit holds for all data sets and for the inputs of stages: see `orchestrator.cache_room`.

A tree never changes. If an object in S3 changes, the next stage gets another tree, which shares all
other files.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from orchestrator.cache_room import (
    DATA,
    LOCK,
    bytes_on_disk,
    hold,
    limit_bytes,
    locked,
    make_room,
    note_size,
)
from orchestrator.errors import DataError
from pipelines.data.archives import unpack
from pipelines.data.download import ProgressReporter, download
from pipelines.data.listing import Listed, RemoteListing
from pipelines.data.s3 import DataBucket


def fetch(listing: RemoteListing, caches: Path, report_progress: ProgressReporter) -> Path:
    """The folder of the data set, in its layout. Raises DataError for a full disk, and the errors
    of the download."""
    home = caches / DATA / _name_of(listing.uri)
    tree = home / "trees" / listing.digest[:40]
    with _errors(home), locked(home / LOCK):
        hold(home)
        if not tree.is_dir():
            _check_links(home)
            _fetch_objects(listing, home, report_progress)
            _unpack_archives(listing, home, report_progress)
            _link(listing, home, tree)
            note_size(home)
    return tree


def _name_of(uri: str) -> str:
    """A unique folder name that people who look for disk usage can read."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", uri.removeprefix("s3://"))[-60:].strip("-")
    return f"{readable}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"


def _fetch_objects(listing: RemoteListing, home: Path, report_progress: ProgressReporter) -> None:
    wanted = {_object_path(home, one): one for one in listing.objects if not _is_here(home, one)}
    _make_room(home, wanted)
    for folder in {path.parent for path in wanted}:
        folder.mkdir(parents=True, exist_ok=True)
    if wanted:
        total = sum(one.object.size for one in wanted.values())
        report_progress(
            f"fetching {listing.uri}: {len(wanted)} of {len(listing.objects)} objects, "
            f"{total / 2**30:.2f} GiB"
        )
        download(DataBucket(listing.uri), wanted, report_progress)


def _is_here(home: Path, one: Listed) -> bool:
    if one.is_archive and _unpacked_path(home, one).is_dir():
        return True
    path = _object_path(home, one)
    if path.is_file() and path.stat().st_size == one.object.size:
        return True
    path.unlink(missing_ok=True)  # a crash of the machine may truncate a complete file
    return False


def _make_room(home: Path, wanted: dict[Path, Listed]) -> None:
    """Delete what others no longer use, as the limit or the disk requires. Raises OSError if the
    disk is still too small.

    An archive needs its size twice until it is unpacked: photographs hardly compress.
    """
    needed = sum(one.object.size * (2 if one.is_archive else 1) for one in wanted.values())
    held = sum(bytes_on_disk(path.stat()) for path in home.glob("objects/*/*.partial"))
    make_room(home.parents[1], max(0, needed - held), limit_bytes(os.environ))
    free = shutil.disk_usage(home).free
    if needed - held > free:
        raise OSError(
            errno.ENOSPC,
            f"{(needed - held) / 2**30:.3g} GiB are needed, {free / 2**30:.3g} GiB are free",
        )


def _unpack_archives(listing: RemoteListing, home: Path, report_progress: ProgressReporter) -> None:
    for one in listing.objects:
        folder = _unpacked_path(home, one)
        if one.is_archive and not folder.is_dir():
            report_progress(f"unpacking {listing.uri}/{one.object.name}")
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            path = _object_path(home, one)
            try:
                unpack(
                    path,
                    f"{listing.uri}/{one.object.name}",
                    partial,
                    listing.wanted,
                    needed=listing.needed,
                )
            except DataError:
                path.unlink()  # so that the next run fetches it again
                shutil.rmtree(partial)
                raise
            os.sync()
            partial.replace(folder)
        if one.is_archive:
            _object_path(home, one).unlink(missing_ok=True)


def _link(listing: RemoteListing, home: Path, tree: Path) -> None:
    partial = tree.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name, path in _files_of(listing, home):
        target = partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # if two archives hold the same file
        _link_file(path, target)
    os.sync()  # a tree that exists after a crash of the machine has all its files
    partial.replace(tree)


def _link_file(path: Path, target: Path) -> None:
    """Make a hard link, or a symbolic link on file systems without hard links."""
    try:
        os.link(path, target)
    except OSError:
        target.symlink_to(path.absolute())


def _check_links(home: Path) -> None:
    """Raises OSError, before anything is fetched, if the file system supports no links."""
    probe = home / "probe"
    probe.unlink(missing_ok=True)
    _link_file(home / LOCK, probe)
    probe.unlink()


def _files_of(listing: RemoteListing, home: Path) -> Iterator[tuple[str, Path]]:
    """The files of a listing, archived files first: a plain file replaces the same file of an
    archive."""
    for one in listing.objects:
        if one.is_archive:
            folder = _unpacked_path(home, one)
            for parent, _, files in os.walk(folder):
                inside = PurePosixPath(os.path.relpath(parent, folder))
                yield from ((str(inside / file), Path(parent, file)) for file in files)
    for one in listing.objects:
        if not one.is_archive:
            yield one.object.name, _object_path(home, one)


def _object_path(home: Path, one: Listed) -> Path:
    return home / "objects" / one.identity[:2] / one.identity[:40]


def _unpacked_path(home: Path, one: Listed) -> Path:
    return home / "unpacked" / one.identity[:40]


@contextmanager
def _errors(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise DataError(
            f"{home}: cannot store the data set here: {err.strerror}; free some space, or set "
            "XDG_CACHE_HOME to a folder with enough space on a local disk"
        ) from err
