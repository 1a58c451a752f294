"""Connect to a Ray cluster or start one on this machine, and list its machines."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
"""Attempts to start a local Ray."""
_IS_LATE = "timed out during startup"
MACHINE_LABEL = "ray.io/node-id"
"""The label that Ray gives each machine."""
VITAL = ("raylet", "gcs_server")
"""Processes of a local Ray that nothing restarts."""

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@dataclass(frozen=True)
class Cluster:
    """A connected cluster."""

    address: str
    own: Node | None
    """The Ray that this process started and will stop. None if it joined an existing cluster."""
    head: HeadWatch

    def machines(self) -> tuple[Machine, ...]:
        """The machines of the cluster, except those that are leaving."""
        return all_machines()

    def loss(self) -> str | None:
        """Return which vital part of Ray has failed and what to do, or None.

        Ray itself would wait, or end this process without a useful message.
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
        f"Ray's {process} on this machine {how}, probably because memory ran out (see dmesg and "
        f"{get_default_ray_temp_dir()}/session_latest/logs); finished stages and checkpoints are "
        "kept, and the same command resumes"
    )


def all_machines() -> tuple[Machine, ...]:
    """The machines of the connected cluster with what is used of them, about a second old. Without
    those that are gone or leaving."""
    free = available_resources_per_node()
    return tuple(
        replace(machine, used=machine.capacity - _capacity(free.get(machine.name, {})))
        for machine in map(machine_of, all_nodes())
    )


def all_nodes() -> list[dict[str, Any]]:
    """What Ray reports about the machines of the connected cluster, except those that are gone or
    leaving."""
    leaving = ray_state.get_draining_nodes()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]


def has_dashboard() -> bool:
    """Whether the connected cluster serves Ray's dashboard."""
    return bool(get_webui_url_from_internal_kv())


def is_leaving() -> bool:
    """Whether Ray has a drain notice for this machine. Autoscalers and spot handlers send them."""
    return ray.get_runtime_context().get_node_id() in ray_state.get_draining_nodes()


def machine_of(node: Mapping[str, Any]) -> Machine:
    """The machine with all its resources."""
    return Machine(_capacity(node["Resources"]), node.get("Labels", {}), node["NodeID"])


def _capacity(resources: Mapping[str, float]) -> Capacity:
    return Capacity(
        resources.get("CPU", 0), resources.get("GPU", 0), resources.get("memory", 0) / 2**30
    )


@contextmanager
def connected(
    address: str | None, *, is_in_use: Callable[[], bool] = lambda: False
) -> Iterator[Cluster]:
    """Yield the cluster at `address`, else at RAY_ADDRESS, else one that is started here and
    stopped at the end.

    If `is_in_use` returns True at the end, threads still wait for Ray, and Ray is not shut down:
    after ray.shutdown such a thread may end the process with code 1 and no message. Ray's processes
    then end with this one, its agents within two minutes. Raises ClusterError if no cluster answers
    at the address.
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
    except Exception as err:  # Ray raises plain exceptions if its processes do not start
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
    """Start Ray on this machine. Tries again if the raylet needs more than the 30 s that Ray
    allows, as on a busy machine."""
    for _ in range(MAX_STARTS - 1):
        try:
            return _start_node()
        except Exception as err:  # Ray raises a plain exception
            if _IS_LATE not in str(err):
                raise
    return _start_node()


def _start_node() -> Node:
    """Start Ray as `ray.init` does, but without the monitors of the autoscaler and of log files.

    Nothing reads their output. On two busy cores they take 1.6 CPU-seconds and 3 of the 11 seconds
    of starting and stopping Ray. Ray's processes end with this process, even if it is killed.
    """
    params = RayParams(include_dashboard=False, no_monitor=True, include_log_monitor=False)
    node = Node.__new__(Node)  # if its constructor fails, the processes it started keep running
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
    """Return the locations of S3 for workers of a cluster that was started elsewhere. Never
    contains a secret.

    A submitted job's workers already have the job's variables, and Ray accepts none of them twice.
    """
    found = {} if is_submitted() else locations_of_s3(os.environ)
    if offer := make_offer(os.environ):
        found[OFFER] = json.dumps(offer)
    # With a runtime environment, Ray cannot use the workers that it has already started.
    return {"env_vars": found} if found else {}


def _not_joined(address: str, err: Exception) -> ClusterError:
    """Explain why ray.init could not join a cluster that answers."""
    reason = " ".join(str(err).split()) or type(err).__name__
    if reason.startswith("Version mismatch"):
        hint = (
            "run this command with the cluster's versions of Ray and Python, for example on one "
            "of its machines"
        )
        return unreachable(address, reason, hint)
    if "resolve node to connect to" in reason:
        hint = (
            "run the command on one of its machines, or `ray start --address=HOST:PORT` here first"
        )
        return unreachable(address, "this machine is not part of the cluster", hint)
    if reason.startswith("RPC error"):
        return unreachable(address, f"the server there is not the head of a Ray cluster ({reason})")
    return unreachable(address, reason)


def _not_started(err: Exception) -> ClusterError:
    """Explain why Ray could not be started on this machine."""
    folder = get_default_ray_temp_dir()
    if "AF_UNIX" in str(err):
        reason = f"the path of its folder, {folder}, is too long for sockets"
        hint = "set RAY_TMPDIR to a folder with a short path, such as /tmp"
    elif isinstance(err, OSError):
        reason = f"{err.filename or folder}: {err.strerror or err}"
        hint = "set RAY_TMPDIR to a writable folder with a short path"
    else:
        reason = " ".join(str(err).split()) or type(err).__name__
        hint = (
            f"see {folder}/session_latest/logs, and check the memory and the disk of this machine"
        )
    return ClusterError(f"cannot start Ray on this machine: {reason}; {hint}")
