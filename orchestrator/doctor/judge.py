"""All verdicts on what was found on one machine."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.doctor.check import Check
from orchestrator.doctor.facts import DataFacts, Findings
from orchestrator.doctor.machine import judge_machine
from orchestrator.doctor.storage import judge_store
from orchestrator.doctor.versions import judge_packages
from orchestrator.doctor.work import judge_data, judge_ops


def judge(
    found: Findings, node: str, *, driver: Findings, hours: float, now_s: float
) -> Iterator[Check]:
    """Judge the machine `node`, against what was found on the driver's."""
    yield from judge_packages(found.packages, node, driver=driver.packages)
    yield from judge_machine(found.machine, node)
    if found.store is not None:
        yield from judge_store(found.store, node, hours=hours, now_s=now_s)
    for data in found.data:
        yield from judge_data(data, node, driver=_same(driver, data))
    if found.ops is not None:
        yield judge_ops(found.ops, node, driver=driver.ops)


def _same(driver: Findings, data: DataFacts) -> DataFacts | None:
    """The driver's facts about the same data. Other stages may read the same folder in another way,
    and of the stages that read it in one way, not all may run on each machine."""
    found = (one for one in driver.data if one.location == data.location)
    return next((one for one in found if set(one.stages) & set(data.stages)), None)
