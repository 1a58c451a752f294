"""Requests to a store that do not depend on each other, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

THREADS = 16
"""A client of S3 has this many connections."""

_T = TypeVar("_T")
_R = TypeVar("_R")


def for_each(
    do: Callable[[_T], _R], items: Iterable[_T], *, num_threads: int = THREADS
) -> list[_R]:
    """Return `do` of each item, in order. After an error it starts nothing more, and raises it."""
    waiting = list(items)
    if len(waiting) == 1:
        return [do(waiting[0])]
    with ThreadPoolExecutor(num_threads, thread_name_prefix="store") as pool:
        try:
            return list(pool.map(do, waiting))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def delete_each(
    delete: Callable[[str], None], names: Sequence[str], goes_on: Callable[[], bool]
) -> list[str]:
    """Delete `names`, several at a time, as long as `goes_on`. Returns those that were deleted."""

    def delete_one(name: str) -> list[str]:
        if not goes_on():
            return []
        delete(name)
        return [name]

    return [name for gone in for_each(delete_one, names) for name in gone]
