"""Verdicts on disks, shared memory, open files, memory and clocks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.doctor.check import DRIVER, Verdict
from orchestrator.doctor.facts import MachineFacts, Room
from orchestrator.doctor.machine import judge_clock, judge_machine

GIB = 2**30
MIB = 2**20
GOOD = MachineFacts(
    rooms=(Room("temporary files", "/tmp", 50 * GIB, 100 * GIB),),
    shared_memory=Room("shared memory", "/dev/shm", 8 * GIB, 8 * GIB),
    open_files=65535,
    free_memory_bytes=16 * GIB,
)


def _verdicts(facts: MachineFacts) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in judge_machine(facts, DRIVER)}


def test_a_usual_machine_is_ok() -> None:
    assert set(_verdicts(GOOD).values()) == {Verdict.OK}
    assert all(check.todo is None for check in judge_machine(GOOD, DRIVER))


@pytest.mark.parametrize(
    ("free_bytes", "total_bytes", "verdict"),
    [
        (MIB, 100 * GIB, Verdict.FAULT),
        (100 * MIB, 100 * GIB, Verdict.WARNING),
        (0, 0, Verdict.OK),  # a file system that reports no size
    ],
)
def test_a_full_disk_is_a_fault(free_bytes: int, total_bytes: int, verdict: Verdict) -> None:
    room = Room("temporary files", "/tmp", free_bytes, total_bytes)
    assert _verdicts(replace(GOOD, rooms=(room,)))["disk"] is verdict


@pytest.mark.parametrize(
    ("free_bytes", "total_bytes", "verdict"),
    [
        (64 * MIB, 64 * MIB, Verdict.FAULT),  # Docker's default
        (512 * MIB, 512 * MIB, Verdict.WARNING),
        (10 * MIB, 8 * GIB, Verdict.WARNING),  # others fill it
        (8 * GIB, 8 * GIB, Verdict.OK),
    ],
)
def test_little_shared_memory_is_found(free_bytes: int, total_bytes: int, verdict: Verdict) -> None:
    room = Room("shared memory", "/dev/shm", free_bytes, total_bytes)
    assert _verdicts(replace(GOOD, shared_memory=room))["/dev/shm"] is verdict


@pytest.mark.parametrize(
    ("limit", "verdict"),
    [(256, Verdict.FAULT), (1024, Verdict.WARNING), (4096, Verdict.OK), (None, Verdict.OK)],
)
def test_few_open_files_are_found(limit: int | None, verdict: Verdict) -> None:
    assert _verdicts(replace(GOOD, open_files=limit))["open files"] is verdict


def test_little_memory_is_found() -> None:
    assert _verdicts(replace(GOOD, free_memory_bytes=MIB))["memory"] is Verdict.FAULT
    assert _verdicts(replace(GOOD, free_memory_bytes=GIB))["memory"] is Verdict.WARNING
    assert "memory" not in _verdicts(replace(GOOD, free_memory_bytes=None))


@pytest.mark.parametrize(
    ("skew_s", "verdict", "detail"),
    [
        (0.4, Verdict.OK, "they differ by less than 5 s"),
        (-30.0, Verdict.WARNING, "30 s behind"),
        (3600.0, Verdict.FAULT, "3600 s ahead"),
    ],
)
def test_a_clock_that_is_off_is_found(skew_s: float, verdict: Verdict, detail: str) -> None:
    check = judge_clock(skew_s, DRIVER, other="store")
    assert (check.verdict, check.detail) == (verdict, detail)
