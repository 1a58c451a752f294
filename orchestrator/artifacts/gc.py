"""Removes what nothing in a store needs. A dry run does the same except for the deletions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from orchestrator.artifacts.inventory import Inventory, open_inventory
from orchestrator.artifacts.survey import (
    BLOBS,
    RESULTS,
    RESUME_STATE,
    RUNS,
    is_leased,
    key_of_part,
    read_blobs,
    read_manifests,
    read_resume_state,
    read_roots,
    read_runs,
)
from orchestrator.artifacts.sweep import THREADS, Sweep
from orchestrator.artifacts.unfinished import unfinished_writes
from orchestrator.store.marks import Clock, announced, clock_s
from orchestrator.store.protocol import Store

UNFINISHED = "unfinished writes"
NUM_EXAMPLES = 10
_PAGE = 1000


class Removed(NamedTuple):
    """What went of one kind, or would go."""

    kind: str
    num: int
    """Manifests, Keys with resume state, runs, blobs or unfinished writes."""
    num_objects: int
    size: int
    """In bytes."""
    examples: tuple[str, ...] = ()
    """The first names."""


def collect_garbage(
    store: Store,
    *,
    grace_s: float,
    blob_grace_s: float,
    has_results: bool,
    is_dry: bool,
    say: Callable[[str], None] = lambda line: None,
    clock: Clock = clock_s,
    num_threads: int = THREADS,
) -> tuple[Removed, ...]:
    """Delete what nothing needs and what is older than `grace_s`, by the clock of the store. For
    blobs and unfinished writes, which belong to no Key and so to no lease, it is `blob_grace_s`.

    `has_results`: also manifests that are neither in the last run of a job nor pinned, and what
    only they need. Returns what went of each kind. Raises StoreError, and IntegrityError for a
    damaged manifest or job, because nobody knows what it needs.
    """
    with open_inventory() as inventory:
        sweep = Sweep(store, inventory, grace_s, blob_grace_s, clock(), clock, num_threads)
        read_roots(store, inventory)
        read_resume_state(store, inventory)
        read_manifests(store, inventory)
        _choose(store, inventory, RESUME_STATE, grace_s)
        if has_results:
            _choose(store, inventory, RESULTS, grace_s)
            inventory.keep_roots(RESULTS)
        removed = [_remove(sweep, kind, is_dry, say) for kind in (RESULTS, RESUME_STATE)]
        read_runs(store, inventory)
        inventory.choose(RUNS, least_age_s=grace_s)
        for blob in announced(store):
            inventory.add_root(blob)
        read_blobs(store, inventory, least_age_s=blob_grace_s)
        inventory.choose(BLOBS, least_age_s=blob_grace_s)
        removed += [_remove(sweep, kind, is_dry, say) for kind in (RUNS, BLOBS)]
    return (*removed, _remove_unfinished(store, blob_grace_s, is_dry=is_dry))


def _choose(store: Store, inventory: Inventory, kind: str, grace_s: float) -> None:
    """Choose what goes of a kind that belongs to a Key, except Keys that a run works on."""
    inventory.choose(kind, least_age_s=grace_s)
    after = ""
    while page := inventory.going(kind, after=after, most=_PAGE):
        after = page[-1].name
        for found in page:
            key = key_of_part(kind, found.name)
            if key is not None and is_leased(store, key):
                inventory.keep(kind, found.name)


def _remove(sweep: Sweep, kind: str, is_dry: bool, say: Callable[[str], None]) -> Removed:
    num, num_objects, size = sweep.inventory.total(kind)
    first = sweep.inventory.going(kind, after="", most=NUM_EXAMPLES)
    examples = tuple(found.name for found in first)
    if is_dry or not num:
        return Removed(kind, num, num_objects, size, examples)
    gone = Removed(kind, 0, 0, 0, examples)
    for one in sweep.remove(kind):
        gone = gone._replace(
            num=gone.num + one.num,
            num_objects=gone.num_objects + one.num_objects,
            size=gone.size + one.size,
        )
        say(f"removed {gone.num} of {num} {kind}")
    return gone


def _remove_unfinished(store: Store, grace_s: float, *, is_dry: bool) -> Removed:
    num = size = 0
    for write in unfinished_writes(store):
        if write.age_s >= grace_s:
            num, size = num + 1, size + write.size
            if not is_dry:
                write.discard()
    return Removed(UNFINISHED, num, num, size)
