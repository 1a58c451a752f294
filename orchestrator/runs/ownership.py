"""The stages that a run owns, and those that another run works on.

A run takes a lease on a stage before it starts it, and renews it in the background.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from orchestrator.artifact import Manifest
from orchestrator.errors import IntegrityError, LeaseLostError, StoreError
from orchestrator.process import Process
from orchestrator.runs.record import StageRecord, load_record
from orchestrator.store.lease import (
    LEASE_S,
    RENEWALS_PER_LEASE,
    Lease,
    Ownership,
    check_owner,
    find_owner,
    release_lease,
    renew_lease,
    take_lease,
)
from orchestrator.store.marks import is_marked
from orchestrator.store.protocol import Store
from orchestrator.store.publish import load_manifest, training_name

NEWS_S = 60.0
"""The shortest time between two lines about a stage that another run works on."""
MOST_LOOK_S = 10.0
"""The longest interval at which a run looks at a stage that another run works on."""


@dataclass
class OwnedStages:
    """The leases of a run, renewed within the `with` block and released at its end."""

    store: Store
    run_id: str
    job: str
    duration_s: float = LEASE_S
    clock: Callable[[], float] = time.monotonic
    """In seconds."""
    elsewhere: dict[str, str] = field(default_factory=dict)
    """What to show about each stage that another run works on, by name."""
    _leases: dict[str, Lease] = field(default_factory=dict)
    """By stage."""
    _lost: set[Lease] = field(default_factory=set)
    """The leases of this run after which another run took one."""
    _expired_since_s: dict[str, float] = field(default_factory=dict)
    """When this run first saw that a stage's lease is expired. Its owner gets the time of one more
    renewal: an outage of the store may have kept both runs from it."""
    _shown: dict[str, tuple[str, float]] = field(default_factory=dict)
    """By stage, the text that `news` returned last, and when."""
    _looked_at_s: dict[str, float] = field(default_factory=dict)
    _is_over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def renewal_s(self) -> float:
        return self.duration_s / RENEWALS_PER_LEASE

    @property
    def lost(self) -> frozenset[str]:
        """The stages of this run that another run has taken over."""
        return frozenset(stage for stage, lease in self._held().items() if lease in self._lost)

    def take(self, stage: str, key: str) -> bool | Manifest:
        """Take the lease on a stage. Returns False if another run works on it, which `elsewhere`
        then describes, and the manifest if the stage is finished.

        Raises StoreError.
        """
        self._looked_at_s[stage] = self.clock()
        owner = find_owner(self.store, key)
        is_free = owner is None or self._may_take_over(stage, owner)
        is_taken = is_free and self._create(stage, key, owner)
        try:
            # After taking the lease: the former owner may have finished just before, and gc may
            # have looked for leases just before.
            manifest = load_manifest(self.store, key)
            is_marked = is_taken and _is_marked_by_gc(self.store, key)
        except StoreError:
            self.release(stage)
            raise
        if manifest is not None or is_marked:
            self.release(stage)
        is_mine = is_taken and not is_marked
        if is_mine or manifest is not None:
            self._expired_since_s.pop(stage, None)
            self.elsewhere.pop(stage, None)
        elif is_marked:
            self.elsewhere[stage] = "`artifacts gc` deletes old files of it"
        else:
            self.elsewhere[stage] = self._describe(None if is_free else owner)
        return is_mine if manifest is None else manifest

    def _create(self, stage: str, key: str, owner: Ownership | None) -> bool:
        """Create the lease after that of `owner`. Returns False if another run was faster."""
        lease = self._lease(stage, key, token=owner.token + 1 if owner is not None else 1)
        if not take_lease(self.store, lease):
            return False
        with self._lock:
            self._leases[stage] = lease
        return True

    def _lease(self, stage: str, key: str, *, token: int) -> Lease:
        return Lease(
            key=key,
            token=token,
            run_id=self.run_id,
            job=self.job,
            stage=stage,
            host=socket.gethostname(),
            process=Process.current(),
            began_at_s=time.time(),
            duration_s=self.duration_s,
        )

    def token_of(self, stage: str) -> int:
        """The token of this run's lease on a stage that it owns."""
        return self._leases[stage].token

    def is_due(self, stage: str) -> bool:
        """Whether it is time to look again at a stage that another run works on."""
        interval_s = min(MOST_LOOK_S, self.renewal_s)
        return self.clock() - self._looked_at_s.get(stage, float("-inf")) >= interval_s

    def news(self, stage: str) -> str | None:
        """Return the text about a stage that another run works on, or None if it was shown less
        than a minute ago or has not changed."""
        text, now_s = self.elsewhere[stage], self.clock()
        before, shown_at_s = self._shown.get(stage, ("", float("-inf")))
        if text == before or now_s - shown_at_s < NEWS_S:
            return None
        self._shown[stage] = text, now_s
        return text

    def is_by_this_run(self, key: str) -> bool:
        """Whether this run works on the stage with this Key, under another name."""
        return any(lease.key == key for lease in self._leases.values())

    def has_lost(self, stage: str) -> bool:
        """Whether another run has taken over a stage of this run. Asks the store, which may know it
        before the next renewal."""
        lease = self._held().get(stage)
        if lease is None:
            return False
        try:
            check_owner(self.store, lease.key, lease.token)
        except LeaseLostError:
            self._lost.add(lease)
        except StoreError:
            pass  # then the error of the stage says more
        return lease in self._lost

    def release(self, stage: str) -> None:
        """Let others work on a stage. If the store is unreachable, the lease expires."""
        with self._lock:
            lease = self._leases.pop(stage, None)
        if lease is not None and lease not in self._lost:
            with suppress(StoreError):
                release_lease(self.store, lease)

    def _may_take_over(self, stage: str, owner: Ownership) -> bool:
        if owner.is_over or self._has_forgotten(owner):
            return True
        if not owner.is_expired:
            self._expired_since_s.pop(stage, None)
            return False
        since_s = self._expired_since_s.setdefault(stage, self.clock())
        return self.clock() - since_s >= self.renewal_s

    def _has_forgotten(self, owner: Ownership) -> bool:
        """Whether this run created the lease, but never got the store's answer."""
        lease = owner.lease
        is_mine = lease is not None and lease.run_id == self.run_id
        return is_mine and lease not in self._held().values()

    def _describe(self, owner: Ownership | None) -> str:
        """Return what to show about a stage that the run `owner` works on. None: it has just
        started."""
        lease = owner.lease if owner is not None else None
        if lease is None:
            return "running elsewhere"
        if lease.run_id == self.run_id:
            return f"{lease.stage} of this run does the same work"
        since = time.strftime("%H:%M", time.localtime(lease.began_at_s))
        percent = f"{done:.0%}, " if (done := self._progress_of(lease)) is not None else ""
        where = f"run {lease.run_id} on host {lease.host}"
        return f"running elsewhere ({where}, {percent}since {since})"

    def _progress_of(self, lease: Lease) -> float | None:
        """The part of the stage that is done, 0 to 1, as far as its run's record shows."""
        try:
            stage = load_record(self.store, lease.run_id).stages.get(lease.stage)
        except IntegrityError:
            return None
        return _part_done(stage) if stage is not None else None

    def __enter__(self) -> Self:
        threading.Thread(target=self._keep_renewing, name="leases", daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        # The thread is not joined: the store may take a minute to answer.
        self._is_over.set()
        for stage in tuple(self._leases):
            self.release(stage)

    def _keep_renewing(self) -> None:
        while not self._is_over.wait(self.renewal_s):
            for stage, lease in self._held().items():
                try:
                    self._renew(stage, lease)
                except LeaseLostError:
                    self._lost.add(lease)
                except StoreError:  # the journal reports an outage
                    continue

    def _held(self) -> Mapping[str, Lease]:
        with self._lock:
            return dict(self._leases)

    def _renew(self, stage: str, lease: Lease) -> None:
        renew_lease(self.store, lease)
        with self._lock:
            is_held = self._leases.get(stage) == lease
        if not is_held:  # released meanwhile, and this renewal may have come after it
            release_lease(self.store, lease)


def _is_marked_by_gc(store: Store, key: str) -> bool:
    """Whether gc is about to delete the resume state of a stage. Raises StoreError."""
    return is_marked(store, [training_name(key)])


def _part_done(stage: StageRecord) -> float | None:
    return stage.newest.done / stage.total if stage.newest is not None and stage.total else None
