"""Files of a store in a folder: written whole or not at all, and on disk before they have a name.

Folders exist only while they have files: one process may remove an empty folder while another one
is about to write into it.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.digests import PIECE_BYTES, Digester, Digests

_NO_FSYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_NO_FOLDER_FSYNC = _NO_FSYNC | {errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR}
"""SMB and some FUSE file systems do not open a folder, or refuse to sync it."""
TRIES = 1000
"""Attempts to write into a folder that others keep removing. Each removal needs a delete of the
folder's last file within microseconds, so a few are already rare."""


@contextmanager
def drafted(target: Path, *, root: Path) -> Iterator[Path]:
    """Yield a new, empty and hidden file next to `target`, and remove it afterwards if it still
    exists. Missing folders below `root` are created."""
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    for tries_left in reversed(range(TRIES)):
        make_folder(draft.parent, root=root)
        try:
            draft.open("xb").close()
        except FileNotFoundError:  # another process has removed the empty folder
            if not tries_left:
                raise
        else:
            break
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)
        prune(draft.parent, root=root)


def replace(draft: Path, target: Path, *, root: Path) -> None:
    """Rename `draft` to `target`, in any folder below `root`, and wait until this is on disk."""
    for tries_left in reversed(range(TRIES)):
        make_folder(target.parent, root=root)
        try:
            draft.replace(target)
        except FileNotFoundError:  # another process has removed the empty folder
            if not tries_left or not draft.exists():
                raise
        else:
            break
    sync_folder(target.parent)


def make_folder(folder: Path, *, root: Path) -> None:
    """Create `folder` and its missing parents, each on disk before it is used. `root` and its
    parents are only created."""
    if folder == root or root not in folder.parents:
        folder.mkdir(parents=True, exist_ok=True)
        return
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir() and folder.exists():
            raise NotADirectoryError(
                errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)
            ) from None
    except FileNotFoundError:
        make_folder(folder.parent, root=root)
        # Another process may have created it meanwhile, or removed its parent again. The caller
        # notices if it cannot write there. `exist_ok` fails if the folder then vanishes.
        with suppress(FileExistsError, FileNotFoundError):
            folder.mkdir()
            sync_folder(folder.parent)
    else:
        sync_folder(folder.parent)


def prune(folder: Path, *, root: Path) -> None:
    """Remove `folder` and its parents below `root` while they are empty."""
    while root in folder.parents:
        try:
            folder.rmdir()
        except FileNotFoundError:
            pass
        except OSError:  # it is not empty, or the file system keeps it: no bytes are at stake
            return
        folder = folder.parent


def copy(source: Path, draft: Path) -> Digests:
    """Copy a file and wait until it is on disk. Returns the Digests of the bytes copied, which are
    read once."""
    digester = Digester()
    room = bytearray(PIECE_BYTES)
    with source.open("rb", buffering=0) as reading, draft.open("r+b", buffering=0) as writing:
        while num_bytes := reading.readinto(room):
            piece = memoryview(room)[:num_bytes]
            digester.update(piece)
            while piece:
                piece = piece[writing.write(piece) :]
        sync(writing.fileno())
    return digester.digests


def sync(descriptor: int) -> None:
    """Wait until the bytes are on disk, so that a rename is never on disk before its content."""
    try:
        os.fsync(descriptor)
    except OSError as err:
        if err.errno not in _NO_FSYNC:
            raise


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on disk, where the file system supports that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # its last file was deleted meanwhile
        return
    except OSError as err:
        if err.errno not in _NO_FOLDER_FSYNC:
            raise
        return
    try:
        os.fsync(descriptor)
    except OSError as err:
        if err.errno not in _NO_FOLDER_FSYNC:
            raise
    finally:
        os.close(descriptor)
