"""Admission: what starts when, on which capacity."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.history import plan_job
from orchestrator.plan import Plan
from orchestrator.schedule import Block, Capacity, Start, State, decide, shortfall
from orchestrator.spec import load_job
from orchestrator.store import open_store
from tests.orchestrator.counting import KINDS

JOB = """
name: counts
store: ./store
stages:
  search: {kind: tune, of: a, space: {gain: {uniform: [1.0, 2.0]}}, num_trials: 5, resources: {cpus_per_worker: 2}}
  a: {kind: count, data: data, resources: {workers: 2, cpus_per_worker: 2}}
  b: {kind: count, data: data, source: a.count}
  c: {kind: count, data: data, source: b.count}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    (tmp_path / "job.yaml").write_text(JOB)
    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)
    return plan_job(job, open_store(job.store))


def _states(plan: Plan, **states: State) -> dict[str, State]:
    return {planned.name: states.get(planned.name, State.WAITING) for planned in plan.stages}


def _started(plan: Plan, states: dict[str, State], cpus: float) -> dict[str, int]:
    decisions = decide(plan, states, free=Capacity(cpus, 0))
    return {decision.stage.name: decision.slots for decision in decisions if isinstance(decision, Start)}


def test_independent_stages_start_side_by_side_as_far_as_cpus_allow(plan: Plan) -> None:
    assert _started(plan, _states(plan), 16) == {"search": 5, "a": 1}
    assert _started(plan, _states(plan), 4) == {"search": 2}
    assert _started(plan, _states(plan, search=State.RUNNING), 3) == {}


def test_a_search_takes_as_many_trials_at_a_time_as_fit(plan: Plan) -> None:
    assert _started(plan, _states(plan, a=State.RUNNING), 7) == {"search": 3}


def test_a_stage_waits_for_what_it_needs(plan: Plan) -> None:
    states = _states(plan, search=State.DONE, a=State.RUNNING)
    assert _started(plan, states, 16) == {}
    assert _started(plan, {**states, "a": State.REUSED}, 16) == {"b": 1}


def test_dependants_of_a_failed_stage_are_blocked_with_the_reason(plan: Plan) -> None:
    states = _states(plan, search=State.DONE, a=State.FAILED)
    (block,) = decide(plan, states, free=Capacity(16, 0))
    assert isinstance(block, Block)
    assert (block.stage.name, block.why) == ("b", "it needs a")


def test_a_group_that_no_machine_set_can_hold_is_told_with_what_there_is(plan: Plan) -> None:
    machines = (Capacity(3, 0), Capacity(1, 0))
    assert shortfall(plan["b"], machines) is None
    assert shortfall(plan["a"], (Capacity(2, 0), Capacity(2, 0))) is None
    reason = shortfall(plan["a"], machines)
    assert reason is not None
    assert "a: asks for 2 workers with 2 CPUs each, and the cluster has 3 CPUs; 1 CPUs: 1 of them fit" in reason
