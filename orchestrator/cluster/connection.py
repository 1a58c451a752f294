"""Connecting to a Ray cluster, or starting one on this machine; what machines it has."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.services import get_webui_url_from_internal_kv
from ray._private.state import available_resources_per_node
from ray._private.state import state as ray_state

from orchestrator.account import provide_ray_token
from orchestrator.errors import ClusterError
from orchestrator.schedule import Capacity, Machine
from orchestrator.submission import is_submitted

KNOCK_TIMEOUT_S = 10.0
FORWARDED = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@dataclass(frozen=True)
class Cluster:
    """A connected cluster."""

    address: str
    is_own: bool
    """Started by this process, and stopped by it."""

    def machines(self) -> tuple[Machine, ...]:
        """All that each machine which stays has."""
        return all_machines()


def all_machines() -> tuple[Machine, ...]:
    """What each machine of the connected cluster has, those aside that are gone or about to leave."""
    return tuple(_machine(node["Resources"], node) for node in _staying())


def free_machines() -> tuple[Machine, ...]:
    """What each of these machines has free, as of a second ago."""
    free = available_resources_per_node()
    return tuple(_machine(free.get(node["NodeID"], {}), node) for node in _staying())


def _staying() -> list[dict[str, Any]]:
    leaving = ray_state.get_draining_nodes()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]


def has_dashboard() -> bool:
    """Whether the connected cluster serves Ray's dashboard."""
    return bool(get_webui_url_from_internal_kv())


def is_leaving() -> bool:
    """Whether the machine of this process has a drain notice: Ray's, which autoscalers and spot handlers give."""
    return ray.get_runtime_context().get_node_id() in ray_state.get_draining_nodes()


def _machine(resources: Mapping[str, float], node: Mapping[str, Any]) -> Machine:
    capacity = Capacity(resources.get("CPU", 0), resources.get("GPU", 0), resources.get("memory", 0) / 2**30)
    return Machine(capacity, node.get("Labels", {}))


@contextmanager
def connected(address: str | None, *, is_in_use: Callable[[], bool] = lambda: False) -> Iterator[Cluster]:
    """The cluster at `address`, else at RAY_ADDRESS, else one started here and stopped at the end.

    Where `is_in_use` says at the end that threads still wait for Ray, all is left to the end of the process: after
    ray.shutdown, such a thread may end it at once, with code 1 and not a word. What was started here then ends by
    itself, Ray's agents within two minutes.
    Raises ClusterError when there is none at the address.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _knock(address)
    if address == "local":
        provide_ray_token()
    try:
        context = ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            **({"include_dashboard": False} if address == "local" else {"runtime_env": _runtime_env()}),
        )
    except (ConnectionError, RuntimeError, ValueError) as err:
        raise _unreachable(address, str(err).strip().splitlines()[0]) from err
    try:
        yield Cluster(address=context.address_info["address"], is_own=address == "local")
    finally:
        if not is_in_use():
            ray.shutdown()


def _runtime_env() -> dict[str, dict[str, str]]:
    """Where S3 is, for workers of a cluster that was started elsewhere; a submitted job's have its environment already.

    Never a secret: Ray shows a runtime environment to all who may look at the cluster.
    """
    found = {name: os.environ[name] for name in FORWARDED if name in os.environ and not is_submitted()}
    return {"env_vars": found} if found else {}


def _knock(address: str) -> None:
    """Raise ClusterError where nothing listens at HOST:PORT: ray.init would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_TIMEOUT_S).close()
    except OSError as err:
        raise _unreachable(address, err.strerror or str(err)) from err


def _unreachable(address: str, reason: str) -> ClusterError:
    return ClusterError(
        f"cluster {address}: cannot connect: {reason}; give its address by --address or RAY_ADDRESS, "
        "or neither to start Ray on this machine"
    )
