"""Connecting to a Ray cluster, or starting one on this machine; what machines it has."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._private.services import get_webui_url_from_internal_kv
from ray._private.state import available_resources_per_node
from ray._private.state import state as ray_state

from orchestrator.account import provide_ray_token
from orchestrator.capacity import Capacity, Machine
from orchestrator.cluster.address import HeadWatch, check_address, unreachable
from orchestrator.errors import ClusterError
from orchestrator.process import is_submitted
from orchestrator.s3.offer import OFFER, locations_of_s3, make_absolute, make_offer

MAX_STARTS = 3
"""Tries at starting a local Ray."""
_IS_LATE = "timed out during startup"
VITAL = ("raylet", "gcs_server")
"""Processes of a local Ray that nothing starts again."""

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@dataclass(frozen=True)
class Cluster:
    """A connected cluster."""

    address: str
    own: Node | None
    """The Ray that this process started, and stops; None where it joined another's cluster."""
    head: HeadWatch

    def machines(self) -> tuple[Machine, ...]:
        """All that each machine which stays has."""
        return all_machines()

    def loss(self) -> str | None:
        """What is gone without which no stage runs, and what to do; None while all is there.

        Ray itself waits for them, or ends this process without a word that helps.
        """
        if self.own is None:
            return self.head.loss()
        ended = {
            name: process.returncode for name, process in self.own.dead_processes() if name in VITAL
        }
        return next((_loss_of(name, code) for name, code in ended.items()), None)


def _loss_of(process: str, exit_code: int) -> str:
    how = (
        f"was killed by {signal.Signals(-exit_code).name}"
        if exit_code < 0
        else f"ended with code {exit_code}"
    )
    return (
        f"Ray's {process} on this machine {how}, as happens when memory runs out (see dmesg, and "
        f"{get_default_ray_temp_dir()}/session_latest/logs); finished stages and checkpoints are "
        "kept, and the same command resumes"
    )


def all_machines() -> tuple[Machine, ...]:
    """What each machine of the connected cluster has, those aside that are gone or about to
    leave."""
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
    """Whether the machine of this process has a drain notice: Ray's, which autoscalers and spot
    handlers give."""
    return ray.get_runtime_context().get_node_id() in ray_state.get_draining_nodes()


def _machine(resources: Mapping[str, float], node: Mapping[str, Any]) -> Machine:
    capacity = Capacity(
        resources.get("CPU", 0), resources.get("GPU", 0), resources.get("memory", 0) / 2**30
    )
    return Machine(capacity, node.get("Labels", {}))


@contextmanager
def connected(
    address: str | None, *, is_in_use: Callable[[], bool] = lambda: False
) -> Iterator[Cluster]:
    """The cluster at `address`, else at RAY_ADDRESS, else one started here and stopped at the end.

    Where `is_in_use` says at the end that threads still wait for Ray, all is left to the end of the
    process: after ray.shutdown, such a thread may end it at once, with code 1 and not a word. What
    was started here then ends by itself, Ray's agents within two minutes. Raises ClusterError when
    there is none at the address.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    check_address(address)
    if address == "local":
        provide_ray_token()
    make_absolute(os.environ)
    if os.environ.get("RAY_TMPDIR"):  # Ray's processes have other current folders
        os.environ["RAY_TMPDIR"] = str(Path(os.environ["RAY_TMPDIR"]).expanduser().absolute())
    own = None
    try:
        own = _start_ray() if address == "local" else None
        context = ray.init(
            address=own.address if own else address,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env=None if own else _runtime_env(),
        )
    except Exception as err:  # Ray raises plain ones where its processes do not start
        if own is not None:
            _stop_ray(own)
        raise (_not_started(err) if address == "local" else _not_joined(address, err)) from err
    try:
        found = context.address_info["address"]
        yield Cluster(address=found, own=own, head=HeadWatch(found))
    finally:
        if not is_in_use():
            ray.shutdown()
            if own is not None:
                _stop_ray(own)


def _start_ray() -> Node:
    """Start Ray on this machine; tries again where it is too busy for the 30 s that Ray gives its
    raylet."""
    for _ in range(MAX_STARTS - 1):
        try:
            return _start_node()
        except Exception as err:  # Ray raises a plain one
            if _IS_LATE not in str(err):
                raise
    return _start_node()


def _start_node() -> Node:
    """As `ray.init` does, but without the monitors of an autoscaler and of log files.

    Nothing reads what they write, and they take 1.6 CPU-seconds and 3 of the 11 seconds of Ray's
    start and end on two busy cores. Ray's processes end with this one, however it ends.
    """
    params = RayParams(include_dashboard=False, no_monitor=True, include_log_monitor=False)
    node = Node.__new__(Node)  # its constructor starts the processes, and leaves them when it fails
    try:
        node.__init__(
            params, head=True, shutdown_at_exit=False, spawn_reaper=True, ray_init_cluster=True
        )
    except BaseException:
        if hasattr(node, "all_processes"):
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        raise
    return node


def _stop_ray(node: Node) -> None:
    node.kill_all_processes(check_alive=False, allow_graceful=True)


def _runtime_env() -> dict[str, dict[str, str]]:
    """Where S3 is, for workers of a cluster that was started elsewhere; never a secret.

    A submitted job's workers have the job's variables already, and Ray takes none of them twice.
    """
    found = {} if is_submitted() else locations_of_s3(os.environ)
    if offer := make_offer(os.environ):
        found[OFFER] = json.dumps(offer)
    # With one, Ray cannot use the workers that it has started already.
    return {"env_vars": found} if found else {}


def _not_joined(address: str, err: Exception) -> ClusterError:
    """Why ray.init could not join a cluster that answers."""
    reason = " ".join(str(err).split()) or type(err).__name__
    if reason.startswith("Version mismatch"):
        hint = (
            "run this command with the cluster's versions of Ray and Python, as on one of its "
            "machines"
        )
        return unreachable(address, reason, hint)
    if "resolve node to connect to" in reason:
        hint = (
            "run the command on one of its machines, or `ray start --address=HOST:PORT` here first"
        )
        return unreachable(address, "this machine is not one of the cluster's", hint)
    if reason.startswith("RPC error"):
        return unreachable(
            address, f"what answers there is not the head of a Ray cluster ({reason})"
        )
    return unreachable(address, reason)


def _not_started(err: Exception) -> ClusterError:
    """Why no Ray could be started on this machine."""
    folder = get_default_ray_temp_dir()
    if "AF_UNIX" in str(err):
        reason = f"the path of its folder, {folder}, is too long for sockets"
        hint = "set RAY_TMPDIR to a folder with a short path, such as /tmp"
    elif isinstance(err, OSError):
        reason = f"{err.filename or folder}: {err.strerror or err}"
        hint = "set RAY_TMPDIR to a folder that you may write to, with a short path"
    else:
        reason = " ".join(str(err).split()) or type(err).__name__
        hint = (
            f"see {folder}/session_latest/logs, and check the memory and the disk of this machine"
        )
    return ClusterError(f"cannot start Ray on this machine: {reason}; {hint}")
