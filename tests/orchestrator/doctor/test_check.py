"""The doctor's lines, its JSON and its exit code."""

from __future__ import annotations

from orchestrator.doctor.check import DRIVER, Check, Verdict, exit_code, summary, to_document

FINE = Check("memory", DRIVER, Verdict.OK, "15.4 GiB free")
SLOW = Check("upload speed", DRIVER, Verdict.WARNING, "2.0 MiB/s", "check the network")
BROKEN = Check("store", "gpu-1", Verdict.FAULT, "no bucket", "create the bucket")


def test_a_line_has_the_verdict_and_what_to_do() -> None:
    assert str(FINE) == "ok       driver: memory: 15.4 GiB free"
    assert str(BROKEN) == "fault    gpu-1: store: no bucket; create the bucket"


def test_only_a_fault_changes_the_exit_code() -> None:
    assert exit_code([FINE, SLOW]) == 0
    assert exit_code([FINE, SLOW, BROKEN]) == 3


def test_the_summary_counts_faults_and_warnings() -> None:
    assert summary([FINE]) == "1 check: all ok"
    assert summary([FINE, SLOW, BROKEN, BROKEN]) == "4 checks: 2 faults, 1 warning"


def test_the_document_has_the_fields_of_each_check() -> None:
    fine = {
        "name": "memory",
        "node": "driver",
        "verdict": "ok",
        "detail": "15.4 GiB free",
        "todo": None,
    }
    assert to_document([FINE]) == {"checks": [fine]}
    assert BROKEN.to_json()["todo"] == "create the bucket"
