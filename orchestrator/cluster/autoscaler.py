"""Ask the cluster's autoscaler for machines while a stage waits for resources, and learn what it
answers. Starts no workers and decides nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import ray
from ray._private.worker import global_worker
from ray.core.generated import autoscaler_pb2
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from orchestrator.capacity import Capacity

ANSWER_TIMEOUT_S = 30.0
"""How long Ray's head may take to report the state of the autoscaler."""
SETTLE_S = 5.0
"""After the resources of a placed group are given back, Ray reports them as free within a second or
two. Asking again earlier would reserve them again."""
MOST_SETTLE_S = 60.0
_NO_ANSWER = (ray.exceptions.RayError, TimeoutError)
_HEAD = "node:__internal_head__"


class Answer(Enum):
    """What the autoscaler says about a group of workers."""

    UNKNOWN = "it has not seen the request yet, or no autoscaler is running"
    STARTING = "it starts machines for the group"
    FULL = (
        "it cannot start machines for the group while other machines are in use: none of its "
        "machine types fits, or their maximum number is reached"
    )
    IMPOSSIBLE = (
        "it cannot start machines for the group although nothing else is in use: none of its "
        "machine types fits, or their maximum number is too small"
    )
    PLACED = "the group fits on the cluster now"


def can_grow() -> bool:
    """Whether an autoscaler may start more machines for the connected cluster.

    KubeRay and `ray up` name the type of the head machine, and their autoscaler reports its state.
    A cluster of fixed size that was started by `ray start` has neither. KubeRay without autoscaling
    has both: its answer is then never STARTING.
    """
    try:
        status = _read_status()
    except _NO_ANSWER:
        return False
    names = [
        node.ray_node_type_name
        for node in status.cluster_resource_state.node_states
        if _HEAD in node.total_resources
    ]
    return any(names) and status.autoscaling_state.autoscaler_state_version > 0


@contextmanager
def asked_for(
    worker: Capacity, *, num_workers: int, labels: Mapping[str, str]
) -> Iterator[GroupRequest]:
    """Yield a request for machines that hold a group of workers, withdrawn at the end.

    It asks for nothing until its method `ask` is called.
    """
    request = GroupRequest(worker, num_workers, labels)
    try:
        yield request
    finally:
        request.withdraw()


class GroupRequest:
    """A request for machines, made by a placement group that waits in Ray's queue.

    Ray adds the queues of all drivers, on top of what is in use, and drops this one if the driver
    is killed. Not thread-safe.
    """

    def __init__(self, worker: Capacity, num_workers: int, labels: Mapping[str, str]) -> None:
        self._bundles = [_bundle(worker)] * num_workers
        self._selectors = [dict(labels)] * num_workers
        self._pending: _Pending | None = None
        self._settled_s = 0.0
        self._settle_s = SETTLE_S

    def ask(self) -> Answer:
        """Ask for the machines if this is not done yet, and return the answer so far.

        The caller repeats this while it lacks resources. On PLACED they have just been given back,
        so that the stage's workers can take them.
        """
        if self._pending is None:
            if time.monotonic() < self._settled_s:
                return Answer.PLACED
            self._pending = _Pending(
                placement_group(self._bundles, bundle_label_selector=self._selectors)
            )
        try:
            answer = self._pending.answer()
        except _NO_ANSWER:
            return Answer.UNKNOWN
        if answer is Answer.PLACED:
            self.withdraw()
            # Others may be faster. The more often, the longer this one leaves the room to them.
            self._settled_s = time.monotonic() + self._settle_s
            self._settle_s = min(MOST_SETTLE_S, self._settle_s * 2)
        return answer

    def withdraw(self) -> None:
        """Stop asking. Machines that have started leave after the autoscaler's idle timeout."""
        if self._pending is not None and ray.is_initialized():
            remove_placement_group(self._pending.group)
        self._pending = None


@dataclass
class _Pending:
    """A placement group that is in Ray's queue."""

    group: PlacementGroup
    seen_from: int | None = None
    """The first version of the cluster's state that contains the group."""

    def answer(self) -> Answer:
        if placement_group_table(self.group)["state"] == "CREATED":
            return Answer.PLACED
        status = _read_status()
        if self.seen_from is None and self._is_in(
            status.cluster_resource_state.pending_gang_resource_requests
        ):
            self.seen_from = status.cluster_resource_state.cluster_resource_state_version
        state = status.autoscaling_state
        last_seen = state.last_seen_cluster_resource_state_version
        if self.seen_from is None or last_seen < self.seen_from:
            return Answer.UNKNOWN
        if not self._is_in(state.infeasible_gang_resource_requests):
            return Answer.STARTING
        return Answer.FULL if _is_in_use(status) else Answer.IMPOSSIBLE

    def _is_in(self, requests: Any) -> bool:
        return any(self.group.id.hex() in request.details for request in requests)


def _is_in_use(status: Any) -> bool:
    """Whether machines are present or starting that may leave later and make room for others."""
    nodes, state = status.cluster_resource_state.node_states, status.autoscaling_state
    alive = [node for node in nodes if node.status != autoscaler_pb2.NodeStatus.DEAD]
    return (
        len(alive) > 1
        or any(_has_work(node) for node in alive)
        or bool(state.pending_instance_requests)
        or bool(state.pending_instances)
    )


def _has_work(node: Any) -> bool:
    total, free = node.total_resources, node.available_resources
    return any(free.get(name, 0.0) < total.get(name, 0.0) for name in ("CPU", "GPU", "memory"))


def _bundle(worker: Capacity) -> dict[str, float]:
    amounts = {
        "CPU": worker.cpus,
        "GPU": worker.gpus,
        "memory": int(worker.memory_gib * 2**30),
    }
    return {name: amount for name, amount in amounts.items() if amount}


def _read_status() -> Any:
    """What Ray's head knows about the machines, and what the autoscaler last reported to it."""
    status = autoscaler_pb2.GetClusterStatusReply()
    status.ParseFromString(global_worker.gcs_client.get_cluster_status(timeout_s=ANSWER_TIMEOUT_S))
    return status
