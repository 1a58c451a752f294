"""Counts images that cannot be decoded, up to the job's limit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orchestrator.errors import DataError
from pipelines.data.faults import first_named
from pipelines.training.distributed import gather_over_ranks


class BrokenImages:
    """The broken files seen so far, each counted once; `paths` are relative to `root`."""

    def __init__(self, root: Path | str, *, limit: int, paths: Iterable[str] = ()) -> None:
        self._root, self._limit = root, limit
        self._paths = set(paths)

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(sorted(self._paths))

    def add(self, paths: Iterable[str]) -> None:
        """Count `paths`. Raises DataError, which names the files, if they exceed the limit."""
        self._paths.update(paths)
        if len(self._paths) > self._limit:
            raise DataError(
                f"{self._root}: {len(self._paths)} images cannot be decoded, but "
                f"max_broken_images is {self._limit}: "
                f"{first_named(self.paths)}; replace or delete them, or raise max_broken_images"
            )


def share_broken(broken: BrokenImages) -> None:
    """Share the broken images between all ranks, so that all stop at the same limit."""
    for paths in gather_over_ranks(broken.paths):
        broken.add(paths)
