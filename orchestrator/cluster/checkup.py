"""Examine all machines of a Ray cluster: each in an actor that reserves nothing, its free GPUs in
actors that reserve one each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
from ray._common.usage.usage_lib import get_cluster_metadata
from ray._private.state import available_resources_per_node
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.capacity import Machine
from orchestrator.cluster.address import check_address, head_address
from orchestrator.cluster.all_reduce import (
    TIMEOUT_S,
    all_reduce,
    first_line,
    free_address,
    gpu_facts,
    transfer_of,
    use_gpus,
)
from orchestrator.cluster.connection import all_nodes, connected, machine_of
from orchestrator.cluster.examination import Questions, examine
from orchestrator.cluster.hardware import Hardware
from orchestrator.doctor.check import CLUSTER, Check, Verdict
from orchestrator.doctor.facts import AllReduceFacts, Findings, GpuFacts
from orchestrator.doctor.judge import judge
from orchestrator.doctor.machine import judge_clock
from orchestrator.doctor.versions import judge_cluster
from orchestrator.doctor.work import judge_all_reduce, judge_gpus
from orchestrator.errors import ClusterError

START_TIMEOUT_S = 300.0
"""As for a stage: a busy machine takes a minute to start a process."""
EXAMINATION_TIMEOUT_S = 1800.0
"""The fingerprint of ImageNet on a network drive takes minutes."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    name: str
    """The host, with the beginning of Ray's id of the machine if several have the same."""
    node_id: str
    machine: Machine
    """With all its resources."""

    def options(self, **resources: float) -> dict[str, Any]:
        """Options of an actor on this machine."""
        where = NodeAffinitySchedulingStrategy(self.node_id, soft=False)
        return {"scheduling_strategy": where, "num_cpus": 0, **resources}


def find_versions(address: str) -> dict[str, str]:
    """Return the versions of `ray` and `python` that the head of a cluster reports.

    Ray asks for them in the same way before it lets a process join. Raises ClusterError if no
    cluster answers.
    """
    check_address(address)
    head = head_address(address)
    try:
        metadata = get_cluster_metadata(GcsClient(address=head))
    except Exception as err:  # Ray raises plain exceptions
        raise ClusterError(
            f"cluster {address}: does not report its versions: {first_line(err)}; check that the "
            "cluster is Ray 2 and, where tokens are used, that RAY_AUTH_TOKEN is the cluster's"
        ) from err
    return {"ray": metadata["ray_version"], "python": metadata["python_version"]}


def check_cluster(
    address: str,
    questions_for: Callable[[Machine], Questions],
    *,
    driver: Findings,
    hours: float,
    has_speed_tests: bool = True,
) -> Iterator[Check]:
    """Yield the checks of a cluster, before joining it and then on each of its machines.

    A cluster that cannot be joined is a fault. `questions_for` returns what to examine on a
    machine.
    """
    try:
        versions = list(judge_cluster(find_versions(address), driver.packages))
        yield from versions
        if any(check.verdict is Verdict.FAULT for check in versions):
            return
        with connected(address):
            yield from check_nodes(questions_for, driver=driver, hours=hours)
            if has_speed_tests:
                yield from _check_network(find_nodes())
    except ClusterError as err:
        what, _, todo = str(err).partition("; ")
        yield Check("cluster", CLUSTER, Verdict.FAULT, what, todo or None)


def check_nodes(
    questions_for: Callable[[Machine], Questions], *, driver: Findings, hours: float
) -> Iterator[Check]:
    """Yield the checks of each machine of the connected cluster."""
    nodes = find_nodes()
    examine_one = partial(_examine_node, driver=driver, hours=hours)
    with ThreadPoolExecutor(len(nodes)) as pool:
        asked = [questions_for(node.machine) for node in nodes]
        for checks in pool.map(examine_one, nodes, asked):
            yield from checks


def find_nodes() -> list[Node]:
    """The machines of the connected cluster, except those that are leaving."""
    found = all_nodes()
    num_of = Counter(node["NodeManagerHostname"] for node in found)
    return [_node(node, is_unique=num_of[node["NodeManagerHostname"]] == 1) for node in found]


def _node(node: Mapping[str, Any], *, is_unique: bool) -> Node:
    host, node_id = node["NodeManagerHostname"], node["NodeID"]
    return Node(host if is_unique else f"{host}/{node_id[:8]}", node_id, machine_of(node))


class Examiner:
    """An actor on the machine to examine."""

    def clock_s(self) -> float:
        return time.time()

    def examine(self, questions: Questions) -> Findings:
        return examine(questions)


def _examine_node(
    node: Node, questions: Questions, *, driver: Findings, hours: float
) -> Sequence[Check]:
    examiner = ray.remote(Examiner).options(**node.options()).remote()
    try:
        ray.get(examiner.clock_s.remote(), timeout=START_TIMEOUT_S)
        skew_s = _skew_s(examiner)
        found = ray.get(examiner.examine.remote(questions), timeout=EXAMINATION_TIMEOUT_S)
    except ray.exceptions.RayError as err:
        return [_unexamined(node, err)]
    finally:
        ray.kill(examiner)
    return [
        judge_clock(skew_s, node.name, other="driver"),
        *judge(found, node.name, driver=driver, hours=hours, now_s=time.time()),
    ]


def _skew_s(examiner: Any) -> float:
    """How far the clock of a machine is ahead of this one's, up to half the time of a call."""
    before_s = time.time()
    there_s = ray.get(examiner.clock_s.remote(), timeout=START_TIMEOUT_S)
    return float(there_s - (before_s + time.time()) / 2)


def _unexamined(node: Node, err: ray.exceptions.RayError) -> Check:
    cause = getattr(err, "cause", None) or err
    todo = (
        "install the project's environment (`make install`) there, and see Ray's logs on that "
        "machine"
    )
    detail = f"a process there failed: {first_line(cause)}"
    return Check("examination", node.name, Verdict.FAULT, detail, todo)


class Rank:
    """An actor that takes part in an all-reduce, with one GPU or without."""

    def use_gpus(self) -> Hardware:
        return use_gpus()

    def free_address(self) -> str:
        return free_address()

    def all_reduce(self, backend: str, address: str, rank: int, num_ranks: int) -> float:
        return all_reduce(backend, address, rank=rank, num_ranks=num_ranks)


def _check_network(nodes: Sequence[Node]) -> Iterator[Check]:
    """Test the free GPUs of all machines, and an all-reduce between them. If none works, test one
    between the machines."""
    with_gpus = [node for node in nodes if node.machine.capacity.gpus >= 1]
    ranks: list[Any] = []
    try:
        for node in with_gpus:
            facts, working = _use_gpus_of(node)
            ranks += working
            yield judge_gpus(facts, node.name)
        if ranks:
            yield judge_all_reduce(_reduce(ranks, "nccl"))
        elif len(nodes) > 1:
            ranks = [ray.remote(Rank).options(**node.options()).remote() for node in nodes]
            yield judge_all_reduce(_reduce(ranks, "gloo"))
    finally:
        for rank in ranks:
            ray.kill(rank)


def _use_gpus_of(node: Node) -> tuple[GpuFacts, list[Any]]:
    """Use the GPUs of a machine that are free now. Returns the actors whose GPUs work."""
    listed = int(node.machine.capacity.gpus)
    free = int(available_resources_per_node().get(node.node_id, {}).get("GPU", 0))
    ranks = [ray.remote(Rank).options(**node.options(num_gpus=1)).remote() for _ in range(free)]
    found: list[Hardware] = []
    errors: list[str] = []
    working: list[Any] = []
    for rank, answer in [(rank, rank.use_gpus.remote()) for rank in ranks]:
        try:
            found.append(ray.get(answer, timeout=START_TIMEOUT_S))
            working.append(rank)
        except ray.exceptions.GetTimeoutError:  # another user has taken the GPU meanwhile
            ray.kill(rank)
        except ray.exceptions.RayError as err:
            errors.append(first_line(getattr(err, "cause", None) or err))
            ray.kill(rank)
    return gpu_facts(listed, found, errors), working


def _reduce(ranks: Sequence[Any], backend: str) -> AllReduceFacts:
    facts = AllReduceFacts(backend, len(ranks))
    try:
        address = ray.get(ranks[0].free_address.remote(), timeout=START_TIMEOUT_S)
        answers = [
            rank.all_reduce.remote(backend, address, number, len(ranks))
            for number, rank in enumerate(ranks)
        ]
        took_s = max(ray.get(answers, timeout=START_TIMEOUT_S + TIMEOUT_S))
    except ray.exceptions.RayError as err:
        return replace(facts, error=first_line(getattr(err, "cause", None) or err))
    return replace(facts, reduce=transfer_of(backend, len(ranks), took_s))
