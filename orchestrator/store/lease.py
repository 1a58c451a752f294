"""Leases: which run works on a stage, so that two runs never pay for the same stage.

    leases/<key>/<token>.json     the newest token owns the stage; its owner renews it

A new owner creates the file of the next token, which only one run can, and renews its lease by
writing this file again. So no run replaces another one's lease, and all that this needs of a store
is `create`. An owner that was paused and wakes up still
writes under its own token, and everything that it writes names this token.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Literal, NamedTuple

from pydantic import ValidationError

from orchestrator.artifact import Value
from orchestrator.errors import LeaseLostError, StoreError
from orchestrator.process import Process
from orchestrator.store.protocol import Store

LEASE_S = 60.0
"""How long a lease lasts without a renewal. Longer than short outages of a store."""
LEASE_VARIABLE = "ORCHESTRATOR_LEASE_S"
"""The environment variable that changes it for a run."""
RENEWALS_PER_LEASE = 3

_NAME = re.compile(r"(\d{8,})\.json")


class Lease(Value):
    """The right of a run to work on the stage with this Key."""

    key: str
    token: int
    """1 for the first owner of a stage, and one more for each later owner."""
    run_id: str
    job: str
    stage: str
    host: str
    process: Process
    """The driver of the run."""
    began_at_s: float
    """By the owner's clock; only shown."""
    duration_s: float = LEASE_S
    state: Literal["held", "released"] = "held"


class Ownership(NamedTuple):
    """The newest lease on a stage."""

    token: int
    lease: Lease | None
    """None if its file is damaged."""
    age_s: float
    """Seconds since the last renewal, by the clock of the store."""

    @property
    def is_over(self) -> bool:
        """Whether its owner released it, or is a process of this machine that has ended."""
        return self.lease is not None and (
            self.lease.state == "released" or self.lease.process.has_ended()
        )

    @property
    def is_expired(self) -> bool:
        return self.age_s > (self.lease.duration_s if self.lease is not None else LEASE_S)


def find_owner(store: Store, key: str) -> Ownership | None:
    """Return the newest lease on a stage, or None if nobody has worked on it. Raises StoreError."""
    found = _newest(store, key)
    if found is None:
        return None
    token, age_s = found
    content = store.read(lease_name(key, token))
    try:
        lease = Lease.model_validate_json(content or b"")
    except ValidationError:
        lease = None
    return Ownership(token, lease, age_s)


def take_lease(store: Store, lease: Lease) -> bool:
    """Create `lease`, whose token is the next one. Returns False if another run was faster.

    Raises StoreError.
    """
    name = lease_name(lease.key, lease.token)
    if not store.create(name, _content(lease)) and not _is_ours(store.read(name), lease):
        return False
    with suppress(StoreError):  # older ones do no harm, and the next owner tries again
        for older in store.names(_folder(lease.key)):
            if older < name:
                store.delete(older)
    return True


def _is_ours(content: bytes | None, lease: Lease) -> bool:
    """Whether an earlier try of this process created the lease, although its answer was lost."""
    return content == _content(lease)


def renew_lease(store: Store, lease: Lease) -> None:
    """Renew a lease. Raises LeaseLostError if another run has taken over, and StoreError.

    A run that was paused while it took its lease may have got the same token as its successor: on
    a file system without hard links, or a server that ignores conditions. The later of the two
    writes its lease over the other's, whose owner learns it here.
    """
    owner = find_owner(store, lease.key)
    if owner is not None and (owner.token > lease.token or _is_of_another(owner, lease)):
        raise _lost(owner)
    store.write(lease_name(lease.key, lease.token), _content(lease))


def _is_of_another(owner: Ownership, lease: Lease) -> bool:
    return (
        owner.token == lease.token
        and owner.lease is not None
        and owner.lease.run_id != lease.run_id
    )


def release_lease(store: Store, lease: Lease) -> None:
    """Allow others to take over at once. The file stays, so that tokens grow. Raises StoreError."""
    released = lease.model_copy(update={"state": "released"})
    store.write(lease_name(lease.key, lease.token), _content(released))


def check_owner(store: Store, key: str, token: int) -> None:
    """Raise LeaseLostError if a later owner has taken over from the owner with `token`."""
    newest = _newest(store, key)
    if newest is not None and newest[0] > token:
        raise _lost(find_owner(store, key))


def _lost(owner: Ownership | None) -> LeaseLostError:
    by = f"run {owner.lease.run_id} on {owner.lease.host}" if owner and owner.lease else "a run"
    return LeaseLostError(
        f"{by} has taken over this stage, because this run did not renew its lease in time; "
        "run the same command again to get its result"
    )


def lease_name(key: str, token: int) -> str:
    return f"{_folder(key)}/{token:08d}.json"


def _folder(key: str) -> str:
    return f"leases/{key}"


def _content(lease: Lease) -> bytes:
    return lease.model_dump_json().encode()


def _newest(store: Store, key: str) -> tuple[int, float] | None:
    """The newest token and its age in seconds."""
    found = [
        (int(name[1]), entry.age_s)
        for entry in store.entries(_folder(key))
        if (name := _NAME.fullmatch(entry.name.rpartition("/")[2]))
    ]
    return max(found, default=None)
