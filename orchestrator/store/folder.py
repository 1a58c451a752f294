"""A Store in a local or shared folder."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.digests import PIECE_BYTES, Digests
from orchestrator.errors import IntegrityError, StoreError, StoreRefusedError
from orchestrator.store import disk
from orchestrator.store.pool import delete_each
from orchestrator.store.protocol import Entry, Limits

LEAST_FREE_BYTES = 2**24
"""Less free space is refused: not even the smallest model and its records fit."""
FEW_FREE_BYTES = 2**30
"""Less free space causes a warning: a cat_base checkpoint is 0.6 GB and a stage keeps several."""
CLAIM_WAIT_S = 30.0
"""How long to respect a claim without its file. The file follows within milliseconds unless the
claiming process crashed."""
CLAIM_LOOK_S = 0.05
_DRAFT = re.compile(r"\..+\.[0-9a-f]{32}")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_LASTING = _FULL | {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
}
"""Errors that another try would get again. Others may come from the network, as ESTALE and EIO of
NFS."""


class FolderStore:
    """A store in a folder. Writes are atomic by rename, create-only writes by hard link.

    POSIX file systems, including NFS, have hard links. SMB, exFAT and most FUSE file systems
    (gcsfuse) do not, but can create a file exclusively. There a writer first creates a hidden claim
    file in this way and then renames, so that readers still see a whole file or none.
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
            _write(draft, content)
            self._replace(draft, name)

    def create(self, name: str, content: bytes) -> bool:
        with self._errors("write", name), self._draft(name) as draft:
            _write(draft, content)
            try:
                self._path(name).hardlink_to(draft)
            except FileExistsError:
                return False
            except OSError:
                # File systems refuse a hard link with many codes. An error of the disk itself
                # occurs again below.
                is_created = _rename_claimed(draft, self._path(name))
            else:
                is_created = True
            disk.sync_folder(draft.parent)
            return is_created

    def upload(self, name: str, path: Path) -> Digests:
        with self._errors("write", name), self._draft(name) as draft:
            digests = disk.copy(path, draft)
            self._replace(draft, name)
            return digests

    def upload_as(
        self, name_of: Callable[[str], str], path: Path, *, always: bool = False
    ) -> Digests:
        """Copy the file even if its name exists: a disk has no checksums, so to know that the bytes
        are right takes as long as to write them."""
        # The name is known only after the file was read, so the draft is in another folder.
        with self._errors("write", path.name), self._draft("blobs/new") as draft:
            digests = disk.copy(path, draft)
            self._replace(draft, name_of(digests.sha256))
            return digests

    def download(self, name: str, path: Path) -> bool:
        with self._errors("read", name):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(self._path(name), path)
            except FileNotFoundError:
                return False
            return True

    def stream(self, name: str, *, size: int) -> Iterator[bytes] | None:
        with self._errors("read", name):
            try:
                found = self._path(name).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None
        if found != size:
            raise IntegrityError(f"store {self._root}: {name} has {found} bytes instead of {size}")
        return self._pieces(name, size)

    def _pieces(self, name: str, size: int) -> Iterator[bytes]:
        with self._errors("read", name), self._path(name).open("rb", buffering=0) as file:
            while size and (piece := file.read(min(size, PIECE_BYTES))):
                size -= len(piece)
                yield piece

    def delete(self, name: str) -> None:
        with self._errors("delete", name):
            path = self._path(name)
            path.unlink(missing_ok=True)
            disk.prune(path.parent, root=self._root)

    def delete_many(self, names: Sequence[str], *, goes_on: Callable[[], bool]) -> list[str]:
        return delete_each(self.delete, names, goes_on)

    def clear(self, prefix: str) -> None:
        with self._errors("delete", prefix):
            for folder, _, files in os.walk(self._path(prefix), topdown=False):
                for name in files:
                    Path(folder, name).unlink(missing_ok=True)
                disk.prune(Path(folder), root=self._root)

    def names(self, prefix: str) -> list[str]:
        with self._errors("read", prefix):
            return sorted(path.relative_to(self._root).as_posix() for path in self._files(prefix))

    def entries(self, prefix: str) -> Iterator[Entry]:
        with self._errors("read", prefix):
            yield from self._entries(self._files(prefix))

    def drafts(self) -> Iterator[Entry]:
        """Yield the hidden files of unfinished writes, also of those in progress.

        Folders that cannot be read, such as `lost+found`, are not of this store.
        """
        with self._errors("read", "unfinished writes"):
            files = (
                Path(folder, name)
                for folder, _, names in os.walk(self._root)
                for name in names
                if _DRAFT.fullmatch(name)
            )
            yield from self._entries(files)

    def _entries(self, files: Iterable[Path]) -> Iterator[Entry]:
        now_s = self._now_s()
        for path in files:
            with suppress(FileNotFoundError):
                stat = path.stat()
                name = path.relative_to(self._root).as_posix()
                yield Entry(name, stat.st_size, max(0.0, now_s - stat.st_mtime))

    def _files(self, prefix: str) -> Iterator[Path]:
        """Yield the files below a folder, from which other processes may remove some meanwhile."""
        for folder, folders, files in os.walk(self._path(prefix), onerror=_raise_if_there):
            folders[:] = [name for name in folders if name[0] != "."]
            yield from (Path(folder, name) for name in files if name[0] != ".")

    def _now_s(self) -> float:
        """The clock of the file system, which may be on another machine. This machine's clock if
        the folder cannot be written to."""
        probe = self._root / f".clock.{uuid.uuid4().hex}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        except OSError:
            return time.time()
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)

    def folders(self, prefix: str) -> list[str]:
        with self._errors("read", prefix):
            try:
                entries = list(self._path(prefix).iterdir())
            except (FileNotFoundError, NotADirectoryError):
                return []
            # As in S3, a folder without files does not exist.
            return sorted(entry.name for entry in entries if _has_files(entry))

    def probe(self) -> Limits:
        name = f"probe-{uuid.uuid4().hex}"
        try:
            self.write(name, b"first")
            self._probe_replacing(name)
            self._probe_creating(name)
        finally:
            with self._errors("delete", name):
                for path in self._root.glob(f"*{name}*"):
                    path.unlink(missing_ok=True)
        return Limits(self._probe_room(), clock_skew_s=time.time() - self._now_s())

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
            raise self._lacking("does not return what was written to it")

    def _probe_creating(self, name: str) -> None:
        try:
            won = [self.create(f"{name}-once", content) for content in (b"first", b"second")]
        except StoreError as err:
            raise self._lacking(
                "supports neither hard links nor exclusive creation of files", str(err.__cause__)
            ) from err
        if won != [True, False] or self.read(f"{name}-once") != b"first":
            raise self._lacking("creates a file that already exists")

    def _lacking(self, what: str, reason: str | None = None) -> StoreRefusedError:
        return StoreRefusedError(
            f"store {self._root}: its file system {what}{f' ({reason})' if reason else ''}; choose "
            "another folder or s3://BUCKET/PREFIX with `store:` in the job or --store"
        )

    def _probe_room(self) -> tuple[str, ...]:
        with self._errors("read", "."):
            usage = shutil.disk_usage(self._root)
        # File systems without a size report a total of 0.
        if not usage.total or usage.free >= FEW_FREE_BYTES:
            return ()
        room = f"store {self._root}: only {usage.free / 2**20:.0f} MiB are free on its disk"
        if usage.free < LEAST_FREE_BYTES:
            raise StoreRefusedError(f"{room}; free some space or choose another store with --store")
        return (f"{room}; checkpoints of a large model do not fit",)

    def _path(self, name: str) -> Path:
        return self._root / name

    @contextmanager
    def _draft(self, name: str) -> Iterator[Path]:
        """Yield a hidden file next to `name` and always remove it afterwards."""
        with disk.drafted(self._path(name), root=self._root) as draft:
            yield draft

    def _replace(self, draft: Path, name: str) -> None:
        disk.replace(draft, self._path(name), root=self._root)

    @contextmanager
    def _errors(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            reason = err.strerror or str(err)
            kind = StoreRefusedError if err.errno in _LASTING else StoreError
            hint = (
                "free some space on its disk, or choose another store"
                if err.errno in _FULL
                else "choose a folder that you can write to"
            )
            raise kind(
                f"store {self._root}: cannot {verb} {name}: {reason}; {hint} with `store:` in the "
                "job or --store"
            ) from err


def _rename_claimed(draft: Path, target: Path) -> bool:
    """Rename `draft` to `target` if this process holds the newest claim. Returns whether it did.

    Claims are never removed. If no `target` follows a claim, its maker has crashed, and the next
    claim counts.
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
        if err.errno == errno.ESTALE:  # gcsfuse reports that the file exists only on close
            return False
        raise
    return True


def _rename_once(draft: Path, target: Path, claim: Path, *, later: Path) -> bool:
    # True if this process was paused for so long that others ignored its claim.
    if target.exists() or later.exists():
        return False
    try:
        draft.replace(target)
    except OSError:
        claim.unlink(missing_ok=True)
        raise
    return True


def _is_abandoned(claim: Path, target: Path, *, now_s: float) -> bool:
    """Wait for the maker of `claim` to finish. Returns True if it does not. `now_s` is from the
    clock of the file system."""
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


def _write(draft: Path, content: bytes) -> None:
    with draft.open("r+b") as file:
        file.write(content)
        file.flush()
        disk.sync(file.fileno())


def _has_files(folder: Path) -> bool:
    try:
        return folder.is_dir() and any(folder.iterdir())
    except FileNotFoundError:
        return False


def _raise_if_there(err: OSError) -> None:
    """Raise what `os.walk` met, unless the folder was removed or is a file."""
    if not isinstance(err, (FileNotFoundError, NotADirectoryError)):
        raise err
