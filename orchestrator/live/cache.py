"""A Store for readers that look again and again: what never changes is read once."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

from orchestrator.store.protocol import Store

IMMUTABLE = re.compile(r"blobs/.*|manifests/.*|runs/[^/]*/events/.*")
"""Names whose content is written once."""


@dataclass
class CachedStore:
    """Another store, read-only. Keeps small objects in memory and files in `folder`."""

    store: Store
    folder: Path
    _objects: dict[str, bytes] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return self.store.uri

    def read(self, name: str) -> bytes | None:
        if name in self._objects:
            return self._objects[name]
        content = self.store.read(name)
        if content is not None and IMMUTABLE.fullmatch(name):
            self._objects[name] = content
        return content

    def download(self, name: str, path: Path) -> bool:
        if not IMMUTABLE.fullmatch(name):
            return self.store.download(name, path)
        kept = self.folder / name.replace("/", "-")
        if not kept.exists():
            new = self.folder / uuid4().hex
            if not self.store.download(name, new):
                return False
            new.replace(kept)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kept, path)
        return True

    def names(self, prefix: str) -> list[str]:
        return self.store.names(prefix)

    def folders(self, prefix: str) -> list[str]:
        return self.store.folders(prefix)

    def check_access(self) -> None:
        self.store.check_access()

    def write(self, name: str, content: bytes) -> NoReturn:
        _refuse()

    def create(self, name: str, content: bytes) -> NoReturn:
        _refuse()

    def upload(self, name: str, path: Path) -> NoReturn:
        _refuse()

    def delete(self, name: str) -> NoReturn:
        _refuse()

    def probe(self) -> NoReturn:
        _refuse()


def _refuse() -> NoReturn:
    raise AssertionError("a page only reads the store")
