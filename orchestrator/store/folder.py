"""A Store in a local or shared folder."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import StoreError, StoreRefusedError

LEAST_FREE_BYTES = 2**24
"""Less is refused: not even the smallest model and its records fit."""
FEW_FREE_BYTES = 2**30
"""Less is worth a warning: a checkpoint of cat_base takes 0.6 GB, and a stage keeps several."""
CLAIM_WAIT_S = 30.0
"""How long a claim is respected without its file: the two are milliseconds apart unless the
claimant crashed."""
CLAIM_LOOK_S = 0.05
_LASTING = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.ENOTDIR,
        errno.ENOSYS,
        errno.EOPNOTSUPP,
    }
)
"""Errors that another try meets again; the others may be a network's, as ESTALE and EIO of NFS."""
_NO_FSYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class FolderStore:
    """Atomic by rename. Create-only by hard link, which any POSIX file system has, NFS included;
    else by a claim.

    SMB, exFAT and most FUSE file systems (gcsfuse) have no hard links, but do create a file
    exclusively. There a hidden claim of that kind goes before the rename, so that a reader still
    sees all of a file or nothing.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def uri(self) -> str:
        return str(self._root)

    def read(self, name: str) -> bytes | None:
        with self._errors("read", name):
            try:
                return self._path(name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, name: str, content: bytes) -> None:
        with self._errors("write", name), self._draft(name) as draft:
            draft.write_bytes(content)
            _sync(draft)
            draft.replace(self._path(name))

    def create(self, name: str, content: bytes) -> bool:
        with self._errors("write", name), self._draft(name) as draft:
            draft.write_bytes(content)
            _sync(draft)
            try:
                self._path(name).hardlink_to(draft)
            except FileExistsError:
                return False
            except OSError:
                # File systems refuse a hard link with many codes; an error of the disk itself comes
                # again below.
                return _rename_claimed(draft, self._path(name))
            return True

    def upload(self, name: str, path: Path) -> None:
        with self._errors("write", name), self._draft(name) as draft:
            shutil.copyfile(path, draft)
            _sync(draft)
            draft.replace(self._path(name))

    def download(self, name: str, path: Path) -> bool:
        with self._errors("read", name):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(self._path(name), path)
            except FileNotFoundError:
                return False
            return True

    def delete(self, name: str) -> None:
        with self._errors("delete", name):
            self._path(name).unlink(missing_ok=True)

    def names(self, prefix: str) -> list[str]:
        with self._errors("read", prefix):
            files = (
                path
                for path in self._path(prefix).rglob("*")
                if path.is_file() and path.name[0] != "."
            )
            return sorted(path.relative_to(self._root).as_posix() for path in files)

    def probe(self) -> tuple[str, ...]:
        name = f"probe-{uuid.uuid4().hex}"
        try:
            self.write(name, b"first")
            self._probe_replacing(name)
            self._probe_creating(name)
        finally:
            with self._errors("delete", name):
                for path in self._root.glob(f"*{name}*"):
                    path.unlink(missing_ok=True)
        return self._probe_room()

    def check_access(self) -> None:
        name = f"probe-{uuid.uuid4().hex}"
        self.write(name, b"")
        self.delete(name)

    def _probe_replacing(self, name: str) -> None:
        try:
            self.write(name, b"second")
        except StoreError as err:
            raise self._lacking(
                "cannot rename a file over another one", str(err.__cause__)
            ) from err
        if self.read(name) != b"second":
            raise self._lacking("does not show what was written to it")

    def _probe_creating(self, name: str) -> None:
        try:
            won = [self.create(f"{name}-once", content) for content in (b"first", b"second")]
        except StoreError as err:
            raise self._lacking(
                "has neither hard links nor exclusive creation of files", str(err.__cause__)
            ) from err
        if won != [True, False] or self.read(f"{name}-once") != b"first":
            raise self._lacking("creates a file that exists")

    def _lacking(self, what: str, reason: str | None = None) -> StoreRefusedError:
        return StoreRefusedError(
            f"store {self._root}: its file system {what}{f' ({reason})' if reason else ''}, which "
            "a store needs; "
            "give another folder, or s3://BUCKET/PREFIX, by `store:` in the job or --store"
        )

    def _probe_room(self) -> tuple[str, ...]:
        with self._errors("read", "."):
            usage = shutil.disk_usage(self._root)
        # File systems without a size report 0 of 0.
        if not usage.total or usage.free >= FEW_FREE_BYTES:
            return ()
        room = f"store {self._root}: {usage.free / 2**20:.0f} MiB are free on its disk"
        if usage.free < LEAST_FREE_BYTES:
            raise StoreRefusedError(f"{room}; free some space, or give another store by --store")
        return (f"{room}; checkpoints of a large model do not fit",)

    def _path(self, name: str) -> Path:
        return self._root / name

    @contextmanager
    def _draft(self, name: str) -> Iterator[Path]:
        """A hidden file next to `name`, which is always removed afterwards."""
        target = self._path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    @contextmanager
    def _errors(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            reason = err.strerror or str(err)
            kind = StoreRefusedError if err.errno in _LASTING else StoreError
            raise kind(
                f"store {self._root}: cannot {verb} {name}: {reason}; give a folder that you can "
                "write to by `store:` in the job or --store"
            ) from err


def _rename_claimed(draft: Path, target: Path) -> bool:
    """Whether `draft` became `target`: of many processes that try, the one with the newest claim
    does it.

    Claims stay. Where `target` does not follow a claim, its maker crashed, and the claim after it
    counts.
    """
    number = 1
    while not target.exists():
        claim = _claim(target, number)
        if _create_exclusively(claim):
            return _rename_once(draft, target, claim, later=_claim(target, number + 1))
        number += _is_abandoned(claim, target, now_s=draft.stat().st_mtime)
    return False


def _claim(target: Path, number: int) -> Path:
    return target.with_name(f".{target.name}.claim{number}")


def _create_exclusively(path: Path) -> bool:
    try:
        path.open("xb").close()
    except FileExistsError:
        return False
    except OSError as err:
        if err.errno == errno.ESTALE:  # gcsfuse finds out when the file is closed
            return False
        raise
    return True


def _rename_once(draft: Path, target: Path, claim: Path, *, later: Path) -> bool:
    # This process was paused for so long that its claim was given up.
    if target.exists() or later.exists():
        return False
    try:
        draft.replace(target)
    except OSError:
        claim.unlink(missing_ok=True)
        raise
    return True


def _is_abandoned(claim: Path, target: Path, *, now_s: float) -> bool:
    """Wait for the maker of `claim` to finish; whether it did not. `now_s` is by the clock of the
    file system."""
    try:
        age_s = now_s - claim.stat().st_mtime
    except FileNotFoundError:
        return False
    deadline_s = time.monotonic() + CLAIM_WAIT_S - age_s
    while time.monotonic() < deadline_s:
        if target.exists() or not claim.exists():
            return False
        time.sleep(CLAIM_LOOK_S)
    return True


def _sync(path: Path) -> None:
    """Wait until the bytes are on the disk, so that a rename never outlives its content."""
    with path.open("r+b") as file:  # SMB flushes a file only for one who may write it
        try:
            os.fsync(file.fileno())
        except OSError as err:
            if err.errno not in _NO_FSYNC:
                raise
