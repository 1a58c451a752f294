"""What killed commands left of writes that they did not finish. No listing of a store shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.s3.bucket import SCHEME
from orchestrator.store.folder import FolderStore
from orchestrator.store.marks import ANNOUNCED_S, ANNOUNCEMENTS, MARK_S, MARKS
from orchestrator.store.protocol import Entry, Store

if TYPE_CHECKING:
    from orchestrator.store.s3 import MultipartUpload, S3Store


class Unfinished(NamedTuple):
    """The bytes of an unfinished write."""

    size: int
    age_s: float
    """By the clock of the store."""
    discard: Callable[[], None]


def unfinished_writes(store: Store) -> Iterator[Unfinished]:
    """Yield hidden drafts in a folder or multipart uploads in S3, and the notes of killed writers.

    Raises StoreError.
    """
    if isinstance(store, FolderStore):
        for draft in store.drafts():
            yield Unfinished(draft.size, draft.age_s, _deletion(store, draft))
    if store.uri.startswith(SCHEME):
        from orchestrator.store.s3 import S3Store  # noqa: PLC0415  boto3 takes half a second

        assert isinstance(store, S3Store)
        for upload in store.multipart_uploads():
            yield Unfinished(upload.size, upload.age_s, _abortion(store, upload))
    for folder, life_s in ((ANNOUNCEMENTS, ANNOUNCED_S), (MARKS, MARK_S)):
        for entry in store.entries(folder):
            if entry.age_s > life_s:
                yield Unfinished(entry.size, entry.age_s, _deletion(store, entry))


def _deletion(store: Store, entry: Entry) -> Callable[[], None]:
    return lambda: store.delete(entry.name)


def _abortion(store: S3Store, upload: MultipartUpload) -> Callable[[], None]:
    return lambda: store.abort(upload)
