"""How writers and `artifacts gc` agree on what may be deleted, without locks.

    publishing/<id>.json    an announcement: a writer is about to refer to these blobs
    gc/<id>.json            a mark: gc is about to delete these names

Each side writes its own file first and then reads the files of the other side. So of a writer and a
gc that run at the same time, at least one sees the other: gc keeps what is announced, and a writer
waits until a mark is gone before it checks what exists. docs/decisions/0023-deleting.md has the
argument why no order of these steps leaves a manifest with a missing blob.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import TypeVar

from pydantic import ValidationError

from orchestrator.artifact import Value
from orchestrator.errors import StoreError
from orchestrator.store.protocol import Store

MARKS, ANNOUNCEMENTS = "gc", "publishing"
MARK_S = 1800.0
"""How long writers respect a mark, by the clock of the store. An older one is of a killed gc."""
MARKED_WORK_S = 600.0
"""How long gc deletes under a mark. Much shorter, so that a pause or slow requests do no harm."""
ANNOUNCED_S = 86400.0
"""How long gc respects an announcement, by the clock of the store."""
ANNOUNCED_WORK_S = 3600.0
"""How long a writer relies on its announcement before it writes it again."""
LOOK_EVERY_S = 1.0

Clock = Callable[[], float]
Sleep = Callable[[float], None]
T = TypeVar("T")


class NameList(Value):
    """The content of a mark and of an announcement."""

    names: tuple[str, ...]


def clock_s() -> float:
    """Seconds that also pass while the process is paused or the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def refer_to_blobs(
    store: Store,
    blobs: Collection[str],
    *,
    ensure: Callable[[], None],
    commit: Callable[[], T],
    clock: Clock = clock_s,
    sleep: Sleep = time.sleep,
) -> T:
    """Return the result of `commit`, which makes the store refer to the blobs with these names.

    `ensure` checks that each of the blobs exists, and uploads it if not. Both may be called more
    than once: if they took too long, gc may have ignored the announcement. Raises their errors and
    StoreError.
    """
    name = f"{ANNOUNCEMENTS}/{uuid.uuid4().hex}.json"
    try:
        while True:
            began_s = clock()
            store.write(name, _content(blobs))
            await_unmarked(store, blobs, sleep=sleep)
            ensure()
            if clock() - began_s > ANNOUNCED_WORK_S:
                continue
            result = commit()
            if clock() - began_s <= ANNOUNCED_WORK_S:
                return result
    finally:
        # A leftover announcement only delays gc. It must not hide the error or fail the stage.
        with suppress(StoreError):
            store.delete(name)


def await_unmarked(store: Store, names: Collection[str], *, sleep: Sleep = time.sleep) -> None:
    """Wait until gc is about to delete none of `names`. What exists then stays, if the caller wrote
    before this call what makes gc keep it.

    That is an announcement, a lease or a pin. It takes seconds, but up to MARK_S if a gc was
    killed. Raises StoreError.
    """
    while is_marked(store, names):
        sleep(LOOK_EVERY_S)


def is_marked(store: Store, names: Collection[str]) -> bool:
    """Whether gc is about to delete one of `names`. Raises StoreError."""
    wanted = set(names)
    return any(not wanted.isdisjoint(marked) for marked in _marked(store))


def mark(store: Store, names: Collection[str]) -> str:
    """Mark `names`. Returns the name of the mark, which its maker deletes when it is done."""
    name = f"{MARKS}/{uuid.uuid4().hex}.json"
    store.write(name, _content(names))
    return name


def announced(store: Store) -> Iterator[str]:
    """Yield the names of the blobs that writers are about to refer to. Raises StoreError."""
    for name in _live(store, ANNOUNCEMENTS, ANNOUNCED_S):
        yield from _names_in(store, name)


def _marked(store: Store) -> Iterator[tuple[str, ...]]:
    return (_names_in(store, name) for name in _live(store, MARKS, MARK_S))


def _live(store: Store, folder: str, life_s: float) -> Iterator[str]:
    return (entry.name for entry in store.entries(folder) if entry.age_s < life_s)


def _names_in(store: Store, name: str) -> tuple[str, ...]:
    """The names in a file. Empty if it was deleted after it was listed: then its writer is done."""
    content = store.read(name)
    if content is None:
        return ()
    try:
        return NameList.model_validate_json(content).names
    except ValidationError as err:
        raise StoreError(
            f"store {store.uri}: {name} is damaged; delete it if no other command uses the store"
        ) from err


def _content(names: Collection[str]) -> bytes:
    return NameList(names=tuple(sorted(names))).model_dump_json().encode()
