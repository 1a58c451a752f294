"""Verdicts on a machine: free disk, shared memory, open files, memory, and its clock."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.doctor.check import Check, Verdict
from orchestrator.doctor.facts import MachineFacts, Room
from orchestrator.store.folder import FEW_FREE_BYTES, LEAST_FREE_BYTES

SHM_FAULT_BYTES = 2**27
"""Docker's default of 64 MiB is less: loaders and NCCL then end with a bus error."""
SHM_WARNING_BYTES = 2**30
"""NCCL takes up to 33 MiB for each pair of GPUs, and a loader a few batches."""
OPEN_FILES_FAULT, OPEN_FILES_WARNING = 1024, 4096
"""Each process of Ray and each loader has pipes and sockets. Below the first number, groups of
workers fail with `Too many open files`."""
MEMORY_FAULT_BYTES, MEMORY_WARNING_BYTES = 2**29, 2**31
"""A process that has imported torch takes half a GiB."""
SKEW_WARNING_S = 5.0
SKEW_FAULT_S = 300.0
"""S3 refuses requests from 15 minutes on. A lease ends after less than 5."""

SHM = "/dev/shm"  # noqa: S108  the system's, not a file of ours

_GIVE_SHM = (
    "give it more: `docker run --shm-size=8g`, in Kubernetes an emptyDir with medium Memory at "
    "/dev/shm"
)
_SET_CLOCK = "set the clock of this machine, for example by NTP"


def judge_machine(facts: MachineFacts, node: str) -> Iterator[Check]:
    for room in facts.rooms:
        yield _judge_room(room, node)
    if facts.shared_memory is not None:
        yield _judge_shm(facts.shared_memory, node)
    yield _judge_open_files(facts.open_files, node)
    if facts.free_memory_bytes is not None:
        yield _judge_memory(facts.free_memory_bytes, node)


def _judge_room(room: Room, node: str) -> Check:
    # File systems without a size report a total of 0.
    free_bytes = room.free_bytes if room.total_bytes else FEW_FREE_BYTES
    verdict = graded(free_bytes, fault_below=LEAST_FREE_BYTES, warning_below=FEW_FREE_BYTES)
    detail = f"{room.path} ({room.what}) has {size(room.free_bytes)} free"
    variable = "XDG_CACHE_HOME" if room.what == "cache" else "TMPDIR"
    todo = f"free some space, or set {variable} to a folder on another disk"
    return Check("disk", node, verdict, detail, None if verdict is Verdict.OK else todo)


def _judge_shm(room: Room, node: str) -> Check:
    verdict = graded(room.total_bytes, fault_below=SHM_FAULT_BYTES, warning_below=SHM_WARNING_BYTES)
    todo = _GIVE_SHM
    if verdict is Verdict.OK and room.free_bytes < SHM_FAULT_BYTES:
        verdict = Verdict.WARNING
        todo = "end the processes that fill it, or remove what killed ones have left there"
    detail = f"{size(room.total_bytes)}, {size(room.free_bytes)} of it free"
    return Check(SHM, node, verdict, detail, None if verdict is Verdict.OK else todo)


def _judge_open_files(limit: int | None, node: str) -> Check:
    if limit is None:
        return Check("open files", node, Verdict.OK, "no limit")
    verdict = graded(limit, fault_below=OPEN_FILES_FAULT, warning_below=OPEN_FILES_WARNING)
    todo = "raise the limit (`ulimit -n 65535`) before Ray starts there"
    detail = f"at most {limit} in a process"
    return Check("open files", node, verdict, detail, None if verdict is Verdict.OK else todo)


def _judge_memory(free_bytes: int, node: str) -> Check:
    verdict = graded(free_bytes, fault_below=MEMORY_FAULT_BYTES, warning_below=MEMORY_WARNING_BYTES)
    todo = "end other processes, or use a machine with more memory"
    detail = f"{size(free_bytes)} free"
    return Check("memory", node, verdict, detail, None if verdict is Verdict.OK else todo)


def judge_clock(skew_s: float, node: str, *, other: str) -> Check:
    """`skew_s` is how far the clock of `node` is ahead of the clock of `other`."""
    name, off_s = f"clock against the {other}'s", abs(skew_s)
    if off_s < SKEW_WARNING_S:
        return Check(name, node, Verdict.OK, f"they differ by less than {SKEW_WARNING_S:g} s")
    verdict = Verdict.FAULT if off_s >= SKEW_FAULT_S else Verdict.WARNING
    detail = f"{off_s:.0f} s {'ahead' if skew_s > 0 else 'behind'}"
    return Check(name, node, verdict, detail, _SET_CLOCK)


def graded(value: float, *, fault_below: float, warning_below: float) -> Verdict:
    if value < fault_below:
        return Verdict.FAULT
    return Verdict.WARNING if value < warning_below else Verdict.OK


def size(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"
