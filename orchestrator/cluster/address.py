"""Check in seconds whether a Ray cluster answers at an address. ray.init would wait for minutes."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ray._common.utils import get_ray_address_file
from ray._private.services import canonicalize_bootstrap_address

from orchestrator.errors import ClusterError
from orchestrator.s3.failures import without_secrets_of_urls

CONNECT_TIMEOUT_S = 10.0
WATCH_INTERVAL_S = 5.0
HEAD_SILENCE_S = 40.0
"""Report the loss before Ray does: after a minute of silence Ray ends this process without a useful
message."""

_GIVE = (
    "give HOST:PORT of the cluster's head (port 6379 by default) with --address or RAY_ADDRESS, "
    "or omit both to start Ray on this machine"
)
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The start of a gRPC connection: the preface and empty settings. The server answers with its own
settings."""
_FRAME_TYPE, _SETTINGS = 3, 4


def check_address(address: str) -> None:
    """Raise ClusterError if no Ray cluster answers at `address`: HOST:PORT, `auto` or `local`."""
    if address == "local":
        return
    found = head_address(address)
    host, _, port = found.rpartition(":")
    if not host or not port.isdecimal():
        raise unreachable(address, "the address is not HOST:PORT")
    try:
        answer = _greet(host.strip("[]"), int(port))
    except (
        OSError,
        OverflowError,
        UnicodeError,
    ) as err:  # the latter two from invalid ports and names
        reason = getattr(err, "strerror", None) or str(err)
        raise unreachable(found, reason, f"{_stale_file_hint(found)}{_GIVE}") from err
    if answer and answer[_FRAME_TYPE : _FRAME_TYPE + 1] != bytes((_SETTINGS,)):
        raise unreachable(
            found, "no head of a Ray cluster answers there; it may be Ray's dashboard", _GIVE
        )


def head_address(address: str) -> str:
    """Return the address of a cluster's head, also for `auto`. Raises ClusterError if it is not the
    address of one."""
    _refuse_urls(address)
    found = _running_here() if address == "auto" else address
    _refuse_urls(found)
    return found


@dataclass
class HeadWatch:
    """Checks every few seconds whether the head of a cluster, which this process did not start,
    still accepts connections."""

    address: str
    """The head's HOST:PORT."""
    clock: Callable[[], float] = time.monotonic
    timeout_s: float = 1.0
    _asked_at_s: float = field(init=False)
    _silent_since_s: float | None = field(init=False, default=None)
    """Time of the first unanswered check. A pause of this process does not count as silence."""

    def __post_init__(self) -> None:
        self._asked_at_s = self.clock()

    def loss(self) -> str | None:
        """Return a message that the head is lost and what to do. Returns None while it answers, or
        if it answered within HEAD_SILENCE_S."""
        now_s = self.clock()
        if now_s - self._asked_at_s >= WATCH_INTERVAL_S:
            self._asked_at_s = now_s
            self._silent_since_s = None if self._is_there() else (self._silent_since_s or now_s)
        silence_s = 0.0 if self._silent_since_s is None else now_s - self._silent_since_s
        if silence_s <= HEAD_SILENCE_S:
            return None
        return (
            f"cluster {self.address}: its head has not answered for {silence_s:.0f} s; start it "
            "again, or give another cluster with --address; finished stages and checkpoints are "
            "kept, and the same command resumes"
        )

    def _is_there(self) -> bool:
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=self.timeout_s).close()
        except OSError:
            return False
        return True


def unreachable(address: str, reason: str, hint: str = _GIVE) -> ClusterError:
    return ClusterError(
        f"cluster {without_secrets_of_urls(address)}: cannot connect: {reason}; {hint}"
    )


def _refuse_urls(address: str) -> None:
    if "://" not in address:
        return
    scheme, host = (
        address.partition("://")[0],
        urlsplit(without_secrets_of_urls(address)).hostname or "HOST",
    )
    is_client = scheme == "ray"
    dashboard = f"http://{host}:8265" if is_client else without_secrets_of_urls(address)
    reason = (
        "this is an address for Ray Client, which cannot run stages"
        if is_client
        else "this is the address of a dashboard, which only accepts `ray job submit`"
    )
    raise unreachable(
        address,
        reason,
        f"use {host}:6379 on a machine of the cluster, "
        f"or run `ray job submit --address {dashboard} -- python -m orchestrator run JOB`",
    )


def _running_here() -> str:
    """Return HOST:PORT of the cluster that `auto` means: RAY_ADDRESS, or `ray start` on this
    machine."""
    stated = os.environ.get("RAY_ADDRESS")
    if stated and stated != "auto":
        return stated
    try:
        found = canonicalize_bootstrap_address("auto")
    except (ConnectionError, ValueError) as err:
        raise unreachable(
            "auto", "no Ray is running on this machine", f"run `ray start --head` first, or {_GIVE}"
        ) from err
    assert found is not None, "Ray raises if it finds none"
    return str(found)


def _greet(host: str, port: int) -> bytes:
    """Return the first bytes of the server's answer, or nothing if TLS is on. Raises OSError if the
    server does not answer."""
    with socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in {"1", "true"}:
            return b""
        connection.sendall(_HTTP2_HELLO)
        answer = connection.recv(9)
    if not answer:
        raise ConnectionError("the server closed the connection")
    return answer


def _stale_file_hint(address: str) -> str:
    """Return a hint if the address comes from the file that `ray start` left on this machine."""
    file = Path(get_ray_address_file(None))
    try:
        named = file.read_text().strip()
        is_named = named and canonicalize_bootstrap_address(named) == address
    except (OSError, ValueError):
        return ""
    return f"{file} names that cluster, which has ended: delete the file; " if is_named else ""
