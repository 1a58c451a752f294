"""What killed commands left of writes that they did not finish. No listing of a store shows it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.errors import StoreError
from orchestrator.s3.bucket import SCHEME
from orchestrator.store.folder import FolderStore
from orchestrator.store.marks import ANNOUNCED_S, ANNOUNCEMENTS, MARK_S, MARKS
from orchestrator.store.protocol import Entry, Store

if TYPE_CHECKING:
    from orchestrator.store.s3 import S3Store

_DRAFT = re.compile(r"\..+\.[0-9a-f]{32}")


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
        yield from _drafts(store)
    if store.uri.startswith(SCHEME):
        from orchestrator.store.s3 import S3Store  # noqa: PLC0415  boto3 takes half a second

        assert isinstance(store, S3Store)
        yield from _multipart_uploads(store)
    for folder, life_s in ((ANNOUNCEMENTS, ANNOUNCED_S), (MARKS, MARK_S)):
        for entry in store.entries(folder):
            if entry.age_s > life_s:
                yield Unfinished(entry.size, entry.age_s, _deletion(store, entry))


def _deletion(store: Store, entry: Entry) -> Callable[[], None]:
    return lambda: store.delete(entry.name)


def _drafts(store: FolderStore) -> Iterator[Unfinished]:
    root = Path(store.uri)
    now_s = store._now_s()
    for folder, _, files in os.walk(root):
        for path in (Path(folder, name) for name in files if _DRAFT.fullmatch(name)):
            with suppress(FileNotFoundError):
                stat = path.stat()
                yield Unfinished(stat.st_size, now_s - stat.st_mtime, _removal(store, path))


def _removal(store: FolderStore, path: Path) -> Callable[[], None]:
    def remove() -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as err:
            raise StoreError(f"store {store.uri}: cannot delete {path}: {err.strerror}") from err

    return remove


def _multipart_uploads(store: S3Store) -> Iterator[Unfinished]:
    with store.errors("list", "unfinished uploads"):
        request = store.request("")
        pages = store.connection.get_paginator("list_multipart_uploads").paginate(
            Bucket=request["Bucket"], Prefix=request["Key"]
        )
        for page in pages:
            now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
            for upload in page.get("Uploads", ()):
                name, upload_id = store.name_of(upload["Key"]), upload["UploadId"]
                age_s = (now - upload["Initiated"]).total_seconds()
                yield Unfinished(
                    _size_of(store, name, upload_id), age_s, _abortion(store, name, upload_id)
                )


def _size_of(store: S3Store, name: str, upload_id: str) -> int:
    pages = store.connection.get_paginator("list_parts").paginate(
        **store.request(name), UploadId=upload_id
    )
    return sum(part["Size"] for page in pages for part in page.get("Parts", ()))


def _abortion(store: S3Store, name: str, upload_id: str) -> Callable[[], None]:
    def abort() -> None:
        with store.errors("delete", name):
            store.connection.abort_multipart_upload(**store.request(name), UploadId=upload_id)

    return abort
