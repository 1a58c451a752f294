"""The Store protocol: named byte strings, with the few guarantees that publishing needs."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Store(Protocol):
    """Names are relative, `/`-separated paths. Every method raises StoreError when the store is out
    of reach."""

    @property
    def uri(self) -> str:
        """Where the store is; `open_store(uri)` opens it again in any process."""

    def read(self, name: str) -> bytes | None:
        """The content of `name`, None when there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Put `content` under `name` at once; a reader sees the old content or the new, never a
        part."""

    def create(self, name: str, content: bytes) -> bool:
        """Like `write`, but only where nothing exists: of many writers one gets True and its
        content stays."""

    def upload(self, name: str, path: Path) -> None:
        """Like `write`, from a file."""

    def download(self, name: str, path: Path) -> bool:
        """Copy `name` to the file `path`; False when there is none."""

    def delete(self, name: str) -> None:
        """Remove `name`; nothing happens where there is none."""

    def names(self, prefix: str) -> list[str]:
        """All names below the folder `prefix`, sorted."""

    def probe(self) -> tuple[str, ...]:
        """Warnings about what the store cannot do, from a few quick writes that leave nothing
        behind.

        Raises StoreError where a run could not publish what it trains.
        """

    def check_access(self) -> None:
        """Raises StoreError unless this machine can write to the store and delete; two requests."""
