"""Keeps the files of inputs on this machine's disk: several workers, trials and attempts read the
same backbone, and each machine then fetches it once.

A file is compared with its sha256 each time it is used. A worker gets a hard link to it or, on
another disk, a copy.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from orchestrator.artifact import File
from orchestrator.cache_room import INPUTS, cache_folder, limit_bytes, make_room
from orchestrator.digests import digest_file
from orchestrator.store.protocol import Store

READ_ONLY = 0o444
"""The mode of a kept file and of its links: a worker that changed one would change it for all."""


@dataclass(frozen=True)
class InputCache:
    """Files by their sha256, in `caches`/inputs, shared by all processes of this user."""

    caches: Path
    limit_bytes: float

    def is_worth_it(self, store: Store) -> bool:
        """Whether the store is farther away than the cache: in S3, or on another disk."""
        if self.limit_bytes <= 0:
            return False
        root = Path(store.uri)
        return store.uri.startswith("s3://") or _device(root) != _device(self.caches)

    def has(self, file: File) -> bool:
        """Whether the cache has the file, unchanged. A changed one is deleted."""
        kept = self._kept(file)
        try:
            if kept.stat().st_size == file.size and digest_file(kept).sha256 == file.sha256:
                os.utime(kept)
                return True
        except FileNotFoundError:
            return False
        kept.unlink(missing_ok=True)
        return False

    def take(self, file: File, path: Path) -> bool:
        """Link or copy a kept file to `path`. Returns False if the cache does not have it."""
        if not self.has(file):
            return False
        path.unlink(missing_ok=True)
        try:
            path.hardlink_to(self._kept(file))
        except FileNotFoundError:  # evicted meanwhile
            return False
        except OSError:  # another disk, or a file system without hard links
            try:
                shutil.copyfile(self._kept(file), path)
            except FileNotFoundError:
                return False
        return True

    def put(self, file: File, path: Path) -> None:
        """Keep a file that was just fetched to `path` and checked. A full disk or a folder that
        cannot be written is no error: then every worker fetches the file."""
        draft = self._kept(file).with_name(f".{file.sha256}.{uuid4().hex}")
        try:
            make_room(self.caches, file.size, self.limit_bytes)
            draft.parent.mkdir(parents=True, exist_ok=True)
            try:
                draft.hardlink_to(path)
            except OSError:
                shutil.copyfile(path, draft)
            draft.chmod(READ_ONLY)
            draft.replace(self._kept(file))
        except OSError:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def lock_of(self, file: File) -> Path:
        """The lock file for those who want this file: the first one fetches it. Others share it, so
        that there are at most 256."""
        return self.caches / "locks" / f"{file.sha256[:2]}.lock"

    def _kept(self, file: File) -> Path:
        return self.caches / INPUTS / file.sha256


def input_cache(environ: Mapping[str, str]) -> InputCache:
    """The cache of this machine. Raises JobError for a limit that is not a number."""
    return InputCache(cache_folder(), limit_bytes(environ))


def _device(path: Path) -> int:
    """The disk of a path, which may not exist yet."""
    existing = next(one for one in (path, *path.parents) if one.exists())
    return existing.stat().st_dev
