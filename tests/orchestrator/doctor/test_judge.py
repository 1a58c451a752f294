"""All verdicts on a machine, against the driver's."""

from __future__ import annotations

from orchestrator.doctor.check import Verdict
from orchestrator.doctor.facts import DataFacts, Findings, MachineFacts
from orchestrator.doctor.judge import judge

MACHINE = MachineFacts((), None, None, None)
PACKAGES = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.11.0"}


def _found(*data: DataFacts) -> Findings:
    return Findings(PACKAGES, MACHINE, data=data)


def test_data_are_compared_though_fewer_stages_run_on_a_node() -> None:
    driver = _found(DataFacts("/data", ("check",), "val"), DataFacts("/data", ("a", "b"), "all"))
    same, other = (
        {check.name: check.verdict for check in judge(found, "n", driver=driver, hours=1, now_s=0)}
        for found in (
            _found(DataFacts("/data", ("b",), "all")),
            _found(DataFacts("/data", ("b",), "x")),
        )
    )
    assert same["data of b"] is Verdict.OK
    assert other["data of b"] is Verdict.FAULT
