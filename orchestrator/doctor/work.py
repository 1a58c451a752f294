"""Verdicts on what stages work with: their data, GPUs, the network between workers, mmcv's ops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.doctor.check import CLUSTER, DRIVER, Check, Verdict
from orchestrator.doctor.facts import AllReduceFacts, DataFacts, GpuFacts, OpsFacts
from orchestrator.doctor.storage import judge_speed
from orchestrator.numbers import count_text

SLOW_DATA_MIB_PER_S = 30.0
"""250 ImageNet files of 110 KiB each second."""
SLOW_REDUCE_MIB_PER_S: Mapping[str, float] = {"nccl": 1000.0, "gloo": 10.0}
"""Over PCI Express, NCCL moves some 10 GiB/s; over Ethernet of 10 Gbit/s, 1 GiB/s."""

_GPU_TODO = (
    "see `nvidia-smi` on that machine; install or repair the driver, or start Ray there without "
    "GPUs (`--num-gpus=0`)"
)
_NETWORK_TODO = (
    "allow all TCP ports between the machines of the cluster; where a machine has several network "
    "interfaces, set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
)


def judge_data(facts: DataFacts, node: str, *, driver: DataFacts | None) -> Iterator[Check]:
    """Judge data, against what the driver found."""
    name = f"data of {', '.join(facts.stages)}"
    if facts.error is not None:
        what, _, todo = facts.error.partition("; ")
        todo = todo if node == DRIVER and todo else "copy or mount the data at the same path there"
        yield Check(name, node, Verdict.FAULT, what, todo)
        return
    known = None if driver is None else driver.digest
    if known not in (None, facts.digest):
        detail = f"{facts.location}: differs from the data of the driver"
        todo = "copy or mount the same data on all machines"
        yield Check(name, node, Verdict.FAULT, detail, todo)
        return
    yield Check(name, node, Verdict.OK, f"{facts.location}: can be read")
    if facts.read is not None:
        yield judge_speed(
            f"read speed of {facts.location}",
            facts.read,
            node,
            slow_mib_per_s=SLOW_DATA_MIB_PER_S,
        )


def judge_ops(facts: OpsFacts, node: str, *, driver: OpsFacts | None) -> Check:
    name = "mmcv ops"
    if facts.error is not None:
        todo = "install the project's environment (`make install`) there"
        return Check(name, node, Verdict.FAULT, facts.error, todo)
    by_source: dict[str, list[str]] = {}
    for op, source in facts.sources.items():
        by_source.setdefault(source, []).append(op)
    detail = "; ".join(f"{source}: {', '.join(ops)}" for source, ops in by_source.items())
    if driver is None or driver.error is not None or driver.sources == facts.sources:
        return Check(name, node, Verdict.OK, detail)
    todo = "install mmcv in the same way on all machines"
    return Check(name, node, Verdict.WARNING, f"{detail}, unlike on the driver", todo)


def judge_gpus(facts: GpuFacts, node: str) -> Check:
    if facts.errors:
        detail = f"{len(facts.errors)} of {facts.listed} GPUs cannot be used: {facts.errors[0]}"
        return Check("GPUs", node, Verdict.FAULT, detail, _GPU_TODO)
    if not facts.listed:
        return Check("GPUs", node, Verdict.OK, "none")
    models = ", ".join(dict.fromkeys(facts.names))
    detail = (
        f"{len(facts.names)} of {facts.listed} work ({models}), driver {facts.driver or '?'}, "
        f"CUDA {facts.cuda}, NCCL {facts.nccl}"
    )
    if facts.tested < facts.listed:
        left = facts.listed - facts.tested
        detail = f"{detail}; {left} in use and not tested" if facts.tested else "all are in use"
        return Check(
            "GPUs", node, Verdict.WARNING, detail, "run the doctor again when they are free"
        )
    return Check("GPUs", node, Verdict.OK, detail)


def judge_all_reduce(facts: AllReduceFacts, node: str = CLUSTER) -> Check:
    name = f"all-reduce ({facts.backend})"
    ranks = count_text(facts.num_ranks, "rank")
    if facts.error is not None or facts.reduce is None:
        return Check(name, node, Verdict.FAULT, f"{ranks}: {facts.error}", _NETWORK_TODO)
    if facts.num_ranks == 1:
        return Check(name, node, Verdict.OK, f"{ranks}: works")
    speed, slow = facts.reduce.mib_per_s, SLOW_REDUCE_MIB_PER_S[facts.backend]
    detail = f"{ranks}: {speed:.0f} MiB/s"
    if speed >= slow:
        return Check(name, node, Verdict.OK, detail)
    todo = f"check the network; below {slow:g} MiB/s, gradients take longer than the training"
    return Check(name, node, Verdict.WARNING, detail, todo)
