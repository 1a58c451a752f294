"""Verdicts on data, GPUs, the network between workers, and mmcv's ops."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.doctor.check import DRIVER, Verdict
from orchestrator.doctor.facts import AllReduceFacts, DataFacts, GpuFacts, OpsFacts, Transfer
from orchestrator.doctor.work import judge_all_reduce, judge_data, judge_gpus, judge_ops

MIB = 2**20
DATA = DataFacts("/data/coco", ("detection",), "abc", read=Transfer(64 * MIB, 0.5))
GPUS = GpuFacts(8, 8, ("H100",) * 8, driver="570.1", cuda="12.8", nccl="2.27.5")
OPS = OpsFacts({"nms": "torchvision", "softnms": "python"})


def test_readable_data_have_a_speed() -> None:
    readable, speed = judge_data(DATA, "node", driver=DATA)
    assert (readable.verdict, speed.detail) == (Verdict.OK, "128 MiB/s")


def test_data_missing_on_a_node_must_be_copied_there() -> None:
    facts = replace(DATA, digest=None, error="/data/coco: missing; set the stage's `data`")
    (check,) = judge_data(facts, "node", driver=DATA)
    assert (check.verdict, check.detail) == (Verdict.FAULT, "/data/coco: missing")
    assert check.todo == "copy or mount the data at the same path there"
    (check,) = judge_data(facts, DRIVER, driver=None)
    assert check.todo == "set the stage's `data`"


def test_data_that_differ_from_the_drivers_are_a_fault() -> None:
    (check,) = judge_data(replace(DATA, digest="def"), "node", driver=DATA)
    assert check.detail == "/data/coco: differs from the data of the driver"


def test_slow_data_are_a_warning() -> None:
    _, speed = judge_data(replace(DATA, read=Transfer(4 * MIB, 1.0)), DRIVER, driver=None)
    assert (speed.verdict, speed.detail) == (Verdict.WARNING, "4.0 MiB/s")


def test_ops_are_listed_by_their_implementation() -> None:
    check = judge_ops(OPS, DRIVER, driver=OPS)
    assert (check.verdict, check.detail) == (Verdict.OK, "torchvision: nms; python: softnms")
    compiled = OpsFacts({"nms": "compiled", "softnms": "compiled"})
    assert judge_ops(compiled, "node", driver=OPS).verdict is Verdict.WARNING
    assert judge_ops(OpsFacts(error="ImportError"), "node", driver=OPS).verdict is Verdict.FAULT


@pytest.mark.parametrize(
    ("facts", "verdict", "text"),
    [
        (GpuFacts(0, 0), Verdict.OK, "none"),
        (GPUS, Verdict.OK, "8 of 8 work (H100), driver 570.1, CUDA 12.8, NCCL 2.27.5"),
        (replace(GPUS, tested=7, names=("H100",) * 7), Verdict.WARNING, "1 in use"),
        (GpuFacts(8, 0), Verdict.WARNING, "all are in use"),
        (GpuFacts(1, 1, errors=("no GPU",)), Verdict.FAULT, "1 of 1 GPUs cannot be used: no GPU"),
    ],
)
def test_gpus_must_run_a_kernel(facts: GpuFacts, verdict: Verdict, text: str) -> None:
    check = judge_gpus(facts, "node")
    assert check.verdict is verdict
    assert text in check.detail


@pytest.mark.parametrize(
    ("facts", "verdict", "detail"),
    [
        (AllReduceFacts("nccl", 8, Transfer(2**30, 0.01)), Verdict.OK, "8 ranks: 102400 MiB/s"),
        (AllReduceFacts("nccl", 1, Transfer(0, 0.01)), Verdict.OK, "1 rank: works"),
        (AllReduceFacts("gloo", 2, Transfer(MIB, 1.0)), Verdict.WARNING, "2 ranks: 1 MiB/s"),
        (AllReduceFacts("gloo", 2, error="timed out"), Verdict.FAULT, "2 ranks: timed out"),
    ],
)
def test_an_all_reduce_must_be_fast(facts: AllReduceFacts, verdict: Verdict, detail: str) -> None:
    check = judge_all_reduce(facts)
    assert (check.verdict, check.detail) == (verdict, detail)
