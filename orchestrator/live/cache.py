"""A Store for readers that look again and again: what never changes is read once."""

from __future__ import annotations

import re
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

from orchestrator.digests import PIECE_BYTES, Digester, Digests
from orchestrator.store.protocol import Entry, Store

IMMUTABLE = re.compile(r"blobs/.*|manifests/.*|runs/[^/]*/events/.*")
"""Names whose content is written once. A try after a failed write has the same content."""
MAX_BYTES = 256 * 2**20
"""What the memory may hold. A day has 17,000 batches of events, often of 1 kB, so that the reports
of two weeks read each batch once."""


@dataclass
class CachedStore:
    """Another store, read-only. Keeps small objects in memory and files in `folder`.

    Above `max_bytes` it forgets the objects that were not read for the longest time.
    """

    store: Store
    folder: Path
    max_bytes: int = MAX_BYTES
    _objects: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    """The least recently read first."""
    _num_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Several threads read at a time."""

    @property
    def uri(self) -> str:
        return self.store.uri

    def read(self, name: str) -> bytes | None:
        with self._lock:
            if name in self._objects:
                self._objects.move_to_end(name)
                return self._objects[name]
        content = self.store.read(name)
        if content is not None and IMMUTABLE.fullmatch(name):
            self._keep(name, content)
        return content

    def _keep(self, name: str, content: bytes) -> None:
        with self._lock:
            self._num_bytes += len(content) - len(self._objects.pop(name, b""))
            self._objects[name] = content
            while self._num_bytes > self.max_bytes:
                _, oldest = self._objects.popitem(last=False)
                self._num_bytes -= len(oldest)

    def download(self, name: str, path: Path) -> bool:
        if not IMMUTABLE.fullmatch(name):
            return self.store.download(name, path)
        kept = self._kept_file(name)
        if not kept.exists():
            new = self.folder / uuid4().hex
            if not self.store.download(name, new):
                return False
            new.replace(kept)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kept, path)
        return True

    def stream(self, name: str, *, size: int) -> Iterator[bytes] | None:
        kept = self._kept_file(name)
        if not IMMUTABLE.fullmatch(name):
            return self.store.stream(name, size=size)
        if not kept.exists() or kept.stat().st_size != size:
            pieces = self.store.stream(name, size=size)
            if pieces is None:
                return None
            new = self.folder / uuid4().hex
            digester = Digester()
            with new.open("wb") as file:
                for piece in pieces:
                    digester.update(piece)
                    file.write(piece)
            if digester.digests.sha256 != name.rpartition("/")[2]:  # it may be repaired later
                new.unlink()
                return self.store.stream(name, size=size)
            new.replace(kept)
        return _pieces(kept)

    def _kept_file(self, name: str) -> Path:
        return self.folder / name.replace("/", "-")

    def names(self, prefix: str) -> list[str]:
        return self.store.names(prefix)

    def entries(self, prefix: str) -> Iterator[Entry]:
        return self.store.entries(prefix)

    def folders(self, prefix: str) -> list[str]:
        return self.store.folders(prefix)

    def check_access(self) -> None:
        self.store.check_access()

    def write(self, name: str, content: bytes) -> NoReturn:
        _refuse()

    def create(self, name: str, content: bytes) -> NoReturn:
        _refuse()

    def upload(self, name: str, path: Path) -> Digests:
        _refuse()

    def upload_as(
        self, name_of: Callable[[str], str], path: Path, *, always: bool = False
    ) -> Digests:
        _refuse()

    def delete(self, name: str) -> NoReturn:
        _refuse()

    def delete_many(self, names: Sequence[str], *, goes_on: Callable[[], bool]) -> NoReturn:
        _refuse()

    def clear(self, prefix: str) -> NoReturn:
        _refuse()

    def probe(self) -> NoReturn:
        _refuse()


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _refuse() -> NoReturn:
    raise AssertionError("a page only reads the store")
