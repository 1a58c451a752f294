"""Deletes parts of a store in rounds: mark, read again who needs what, delete, remove the mark.

The order of these steps is what makes it safe next to writers, see orchestrator/store/marks.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from orchestrator.artifacts.inventory import Found, Inventory
from orchestrator.artifacts.survey import (
    BLOBS,
    RESULTS,
    RESUME_STATE,
    is_leased,
    key_of_part,
    read_manifests,
    read_resume_state,
    read_roots,
)
from orchestrator.errors import StoreError
from orchestrator.store.marks import MARKED_WORK_S, Clock, announced, clock_s, mark
from orchestrator.store.pool import for_each
from orchestrator.store.protocol import Entry, Store

ROUND = 10_000
"""Parts marked at once: a mark of 1 MB, which writers read."""
THREADS = 4
"""Folders that are emptied at a time. Each of them may use more threads."""
MARGIN_S = 10.0
"""Ages by the store's clock are compared with times of this machine, and S3 counts whole
seconds."""

_TRIAL = re.compile(r".*/trials/([0-9]+)/(.*)")
_SEAL = re.compile(r".*/checkpoints/[0-9]+(-[0-9]+)?\.json")


class Gone(NamedTuple):
    """What a round deleted: parts, objects and bytes."""

    num: int
    num_objects: int
    size: int


class _Part(NamedTuple):
    """What was deleted of a folder."""

    num: int
    is_whole: bool


class _Deleted(NamedTuple):
    """What was deleted."""

    num_in_folders: int
    """Objects, also of folders in which more are left."""
    gone: list[Found]
    """The parts of which nothing is left."""


@dataclass
class Sweep:
    """The deletions of one gc. `surveyed_at_s` is when its inventory was begun."""

    store: Store
    inventory: Inventory
    grace_s: float
    blob_grace_s: float
    surveyed_at_s: float
    clock: Clock = clock_s
    num_threads: int = THREADS

    def remove(self, kind: str) -> Iterator[Gone]:
        """Delete the parts of `kind` that go. Yields what each round deleted.

        Raises StoreError.
        """
        after = ""
        while chunk := self.inventory.going(kind, after=after, most=ROUND):
            after = chunk[-1].name
            while chunk:
                gone, chunk = self._round(kind, chunk)
                yield Gone(
                    len(gone), sum(found.num for found in gone), sum(found.size for found in gone)
                )

    def _round(self, kind: str, chunk: list[Found]) -> tuple[list[Found], list[Found]]:
        """Delete what is still not needed. Returns what was deleted, and what there was no time
        for."""
        deadline_s = self.clock() + MARKED_WORK_S
        name = mark(self.store, [found.name for found in chunk])
        try:
            self._read_again()
            going = self._still_going(kind, chunk)
            deleted = self._delete(kind, going, lambda: self.clock() <= deadline_s)
        finally:
            self.store.delete(name)
        if going and not deleted.gone and not deleted.num_in_folders:
            raise StoreError(
                f"store {self.store.uri}: it took more than {MARKED_WORK_S:.0f} s to check what is "
                "needed, so nothing was deleted; run gc again when the store is less busy"
            )
        gone = set(deleted.gone)
        return deleted.gone, [found for found in going if found not in gone]

    def _read_again(self) -> None:
        """Note what was written since the survey. References move from announcements and resume
        state to manifests, so they are read in this order."""
        for blob in announced(self.store):
            self.inventory.add_root(blob)
        read_roots(self.store, self.inventory)
        read_resume_state(self.store, self.inventory, is_new=self._is_new)
        read_manifests(self.store, self.inventory, is_new=self._is_new)
        self.inventory.keep_roots(RESULTS)

    def _is_new(self, entry: Entry) -> bool:
        """Whether an entry was written since the survey began.

        The clock is read after the listing. Read before it, a pause in between would make a new
        entry look old.
        """
        return entry.age_s <= self.clock() - self.surveyed_at_s + MARGIN_S

    def _still_going(self, kind: str, chunk: Sequence[Found]) -> list[Found]:
        is_old = self._old_blobs(chunk) if kind == BLOBS else self._is_old
        going = []
        for found in chunk:
            key = key_of_part(kind, found.name)
            stays = not self.inventory.goes(kind, found.name) or self.inventory.is_needed(
                found.name
            )
            if stays or not is_old(found.name) or (key and is_leased(self.store, key)):
                self.inventory.keep(kind, found.name)
            else:
                going.append(found)
        return going

    def _is_old(self, name: str) -> bool:
        """Whether nothing was written to a folder in the grace period. True for an object."""
        return all(entry.age_s >= self.grace_s for entry in self.store.entries(name))

    def _old_blobs(self, chunk: Sequence[Found]) -> Callable[[str], bool]:
        """A blob may have been uploaded again. Blobs come sorted, so these are few folders."""
        names = {found.name for found in chunk}
        folders = sorted({name.rpartition("/")[0] for name in names})
        old = {
            entry.name
            for folder in folders
            for entry in self.store.entries(folder)
            if entry.name in names and entry.age_s >= self.blob_grace_s
        }
        return old.__contains__

    def _delete(self, kind: str, going: Sequence[Found], goes_on: Callable[[], bool]) -> _Deleted:
        """Delete parts while there is time. Objects go many at a time."""
        if kind in (RESULTS, BLOBS):
            names = [found.name for found in going]
            is_gone = set(self.store.delete_many(names, goes_on=goes_on)).__contains__
            return _Deleted(0, [found for found in going if is_gone(found.name)])
        parts = for_each(
            lambda found: self._delete_folder(kind, found.name, goes_on),
            going,
            num_threads=self.num_threads,
        )
        gone = [found for found, part in zip(going, parts, strict=True) if part.is_whole]
        return _Deleted(sum(part.num for part in parts), gone)

    def _delete_folder(self, kind: str, folder: str, goes_on: Callable[[], bool]) -> _Part:
        """Delete what is in a folder, and end early if there is no time left."""
        turn = _turn if kind == RESUME_STATE else _turn_of_run
        num = 0
        for _, group in groupby(sorted(self.store.names(folder), key=turn), key=turn):
            names = list(group)
            num_gone = len(self.store.delete_many(names, goes_on=goes_on))
            num += num_gone
            if num_gone < len(names):
                return _Part(num, is_whole=False)
        return _Part(num, is_whole=True)


def _turn_of_run(name: str) -> bool:
    """The record of a run goes last."""
    return name.endswith("/run.json")


def _turn(name: str) -> tuple[bool, int, bool]:
    """The order that leaves a usable state at any time: seals first, the last trial before the one
    before it, and a trial's log last."""
    trial = _TRIAL.fullmatch(name)
    number = int(trial[1]) if trial else 0
    is_log = trial is not None and trial[2].startswith("trial")
    return _SEAL.fullmatch(name) is None, -number, is_log
