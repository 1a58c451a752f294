"""The Store protocol: named byte strings, with the guarantees that publishing needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from orchestrator.digests import Digests


class Entry(NamedTuple):
    """A name in a store."""

    name: str
    size: int
    """In bytes."""
    age_s: float
    """Seconds since it was last written, by the clock of the store; clocks of machines differ."""


class Limits(NamedTuple):
    """What a store cannot do."""

    warnings: tuple[str, ...] = ()
    """About what a run should know, such as little room."""
    is_for_one_run: bool = False
    """Whether `create` may succeed for two processes at once, so that two runs cannot agree who
    works on a stage."""
    clock_skew_s: float | None = None
    """How far the clock of this machine is ahead of the clock of the store, up to a second. None if
    the store has no clock of its own."""


class Store(Protocol):
    """A store of byte strings. Names are relative paths with `/`.

    Every method raises StoreError if the store is unreachable.
    """

    @property
    def uri(self) -> str:
        """The location of the store. `open_store(uri)` opens it in any process."""

    def read(self, name: str) -> bytes | None:
        """Return the content of `name`, or None if it does not exist."""

    def write(self, name: str, content: bytes) -> None:
        """Write `content` to `name` atomically: a reader sees the old content or the new, never a
        part."""

    def create(self, name: str, content: bytes) -> bool:
        """Like `write`, but only if `name` does not exist. Of many writers, one gets True and its
        content stays."""

    def upload(self, name: str, path: Path) -> Digests:
        """Like `write`, but from a file. Returns the digests of the bytes that are now in the
        store.

        Raises StoreError if the store then reports another size or checksum.
        """

    def upload_as(
        self, name_of: Callable[[str], str], path: Path, *, always: bool = False
    ) -> Digests:
        """Like `upload`, under the name that `name_of` gives the sha256 of the file.

        A store that computes checksums may skip the upload if the name exists with the same bytes,
        unless `always`.
        """

    def download(self, name: str, path: Path) -> bool:
        """Copy `name` to the file `path`. Returns False if `name` does not exist."""

    def stream(self, name: str, *, size: int) -> Iterator[bytes] | None:
        """Return the content of `name`, whose size is known, in pieces of a few MiB. None if `name`
        does not exist.

        Raises IntegrityError if it has another size. The pieces may raise StoreError.
        """

    def delete(self, name: str) -> None:
        """Remove `name` if it exists."""

    def delete_many(self, names: Sequence[str], *, goes_on: Callable[[], bool]) -> list[str]:
        """Remove the `names` that exist, in any order, with few requests or several at a time.
        Returns the names that are gone, in order.

        Calls `goes_on` before each request, and makes none after it has returned False.
        """

    def clear(self, prefix: str) -> None:
        """Remove everything below the folder `prefix`, also what killed writers have left there."""

    def names(self, prefix: str) -> list[str]:
        """Return all names below the folder `prefix`, sorted."""

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield all names below the folder `prefix` with their sizes and ages, in any order.

        Takes constant memory, however many there are. A name that is deleted meanwhile may be
        included.
        """

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below the folder `prefix`, sorted. Their content
        is not listed, so this is fast for a folder with many files in each of them."""

    def probe(self) -> Limits:
        """Test the store with a few writes, which are removed.

        Raises StoreError if a run could not publish its results.
        """

    def check_access(self) -> None:
        """Raise StoreError unless this machine can write to the store and delete. Takes two
        requests."""
