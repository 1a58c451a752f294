"""A Store in a local or shared folder."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import StoreError


class FolderStore:
    """Atomic by rename, create-only by hard link; both hold on any POSIX file system, NFS included."""

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
            files = (path for path in self._path(prefix).rglob("*") if path.is_file() and path.name[0] != ".")
            return sorted(path.relative_to(self._root).as_posix() for path in files)

    def _path(self, name: str) -> Path:
        return self._root / name

    @contextmanager
    def _draft(self, name: str) -> Iterator[Path]:
        """A hidden file beside `name`, gone afterwards whatever happens."""
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
            raise StoreError(
                f"store {self._root}: cannot {verb} {name}: {reason}; give a folder that you can write to "
                "by `store:` in the job or --store"
            ) from err


def _sync(path: Path) -> None:
    """Wait until the bytes are on the disk, so that a rename never outlives its content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
