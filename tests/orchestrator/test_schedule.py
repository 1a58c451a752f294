"""Which stages start when, and with what capacity."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.capacity import (
    Capacity,
    Machine,
    choose_workers,
    groups_for,
    lacking,
    missing_room,
    shortfall,
    worker_slots,
)
from orchestrator.plan import Plan
from orchestrator.planning import plan_job
from orchestrator.schedule import Block, Start, State, decide, find_waits
from orchestrator.spec import Resources, load_job
from orchestrator.store import open_store
from tests.orchestrator.counting import KINDS

JOB = """
name: counts
store: ./store
stages:
  search: {kind: tune, of: a, space: {gain: {uniform: [1.0, 2.0]}}, num_trials: 5,
    resources: {cpus_per_worker: 2}}
  a: {kind: count, data: data, resources: {workers: 2, cpus_per_worker: 2}}
  b: {kind: count, data: data, source: a.count}
  c: {kind: count, data: data, source: b.count}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return _plan(tmp_path, JOB)


def _plan(tmp_path: Path, text: str) -> Plan:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    (tmp_path / "job.yaml").write_text(text)
    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)
    return plan_job(job, open_store(job.store))


def _states(plan: Plan, **states: State) -> dict[str, State]:
    return {planned.name: states.get(planned.name, State.WAITING) for planned in plan.stages}


def _started(plan: Plan, states: dict[str, State], cpus: float) -> dict[str, int]:
    decisions = decide(plan, states, free=Capacity(cpus, 0))
    return {
        decision.stage.name: decision.slots for decision in decisions if isinstance(decision, Start)
    }


def test_independent_stages_start_together_if_cpus_are_free(plan: Plan) -> None:
    assert _started(plan, _states(plan), 16) == {"search": 5, "a": 1}
    assert _started(plan, _states(plan), 4) == {"search": 2}
    assert _started(plan, _states(plan, search=State.RUNNING), 3) == {}


def test_search_runs_as_many_trials_at_a_time_as_fit(plan: Plan) -> None:
    assert _started(plan, _states(plan, a=State.RUNNING), 7) == {"search": 3}


def test_stage_waits_for_the_stages_that_it_needs(plan: Plan) -> None:
    states = _states(plan, search=State.DONE, a=State.RUNNING)
    assert _started(plan, states, 16) == {}
    assert _started(plan, {**states, "a": State.REUSED}, 16) == {"b": 1}


def test_stages_that_need_a_failed_one_are_blocked(plan: Plan) -> None:
    states = _states(plan, search=State.DONE, a=State.FAILED)
    (block,) = decide(plan, states, free=Capacity(16, 0))
    assert isinstance(block, Block)
    assert block.stage.name == "b"
    assert block.why == "it needs a"


def _machine(cpus: float, gpus: float = 0, memory_gib: float = 0, **labels: str) -> Machine:
    return Machine(Capacity(cpus, gpus, memory_gib), labels)


def test_group_that_never_fits_is_reported_with_the_machines(plan: Plan) -> None:
    machines = (_machine(3), _machine(1))
    assert shortfall(plan["b"], machines) is None
    assert shortfall(plan["a"], (_machine(2), _machine(2))) is None
    reason = shortfall(plan["a"], machines)
    assert reason is not None
    assert (
        "a: needs 2 workers with 2 CPUs each, but the cluster has 3 CPUs; 1 CPUs, where 1 of them "
        "fit" in reason
    )


def test_workers_need_machines_with_labels_and_memory() -> None:
    resources = Resources(
        workers=2, gpus_per_worker=1, memory_gib_per_worker=16, labels={"zone": "a"}
    )
    roomy, narrow, elsewhere = (
        _machine(8, 4, 64, zone="a"),
        _machine(8, 4, 20, zone="a"),
        _machine(8, 4, 64, zone="b"),
    )
    assert missing_room(resources, (roomy,), num_workers=2) is None
    assert missing_room(resources, (narrow, narrow), num_workers=2) is None
    assert missing_room(resources, (narrow, elsewhere), num_workers=2) == (
        "needs 2 workers with 1 CPUs, 1 GPUs, 16 GiB each on machines labelled {'zone': 'a'}, "
        "but the cluster has 8 CPUs, 4 GPUs, 20 GiB, where 1 of them fit"
    )
    assert "the cluster has no such machine, where 0 of them fit" in str(
        missing_room(resources, (elsewhere,), num_workers=2)
    )


def test_stage_with_a_worker_range_starts_with_its_minimum(tmp_path: Path) -> None:
    plan = _plan(tmp_path, JOB.replace("{workers: 2, cpus_per_worker: 2}", "{workers: [2, 6]}"))
    (start,) = (
        decision
        for decision in decide(plan, _states(plan, search=State.DONE), free=Capacity(3, 0))
        if isinstance(decision, Start)
    )
    assert start.capacity == Capacity(2, 0)
    assert shortfall(plan["a"], (_machine(2),)) is None
    reason = (
        "a: needs at least 2 workers with 1 CPUs each, but the cluster has 1 CPUs, where 1 of "
        "them fit"
    )
    assert reason in str(shortfall(plan["a"], (_machine(1),)))


def test_worker_range_keeps_the_counts_that_fit(tmp_path: Path) -> None:
    plan = _plan(tmp_path, JOB.replace("{workers: 2, cpus_per_worker: 2}", "{workers: [2, 6]}"))
    assert plan["a"].stage.worker_counts == (2, 3, 4, 6)  # divisors of the batch size 12
    assert plan["b"].stage.worker_counts == (1,)


def test_trials_use_the_minimum_of_a_worker_range(tmp_path: Path) -> None:
    plan = _plan(
        tmp_path, JOB.replace("resources: {cpus_per_worker: 2}}", "resources: {workers: [2, 4]}}")
    )
    assert plan["search"].stage.worker_counts == (2,)
    assert _started(plan, _states(plan, a=State.RUNNING), 7) == {"search": 3}


@pytest.mark.parametrize(
    ("slots", "cpus", "chosen"),
    [(9, 99, 4), (3, 99, 3), (9, 5, 2), (9, 6, 3), (0, 0, 2)],  # never fewer than it began with
)
def test_group_size_fits_machines_and_other_stages(slots: int, cpus: float, chosen: int) -> None:
    worker = Capacity(2, 0)
    assert choose_workers((2, 3, 4), worker, slots=slots, free=Capacity(cpus, 0)) == chosen


def test_worker_slots_count_only_machines_with_the_labels() -> None:
    resources = Resources(workers=(1, 8), cpus_per_worker=2, labels={"zone": "a"})
    machines = (_machine(5, zone="a"), _machine(8, zone="b"), _machine(2, zone="a"))
    assert worker_slots(resources, machines, most=8) == 3


@pytest.mark.parametrize(
    ("cpus", "most", "groups"), [([3, 3, 3], 9, 1), ([3, 3, 4], 9, 2), ([8], 1, 1), ([1], 9, 1)]
)
def test_rests_of_several_machines_do_not_make_a_group(
    cpus: list[int], most: int, groups: int
) -> None:
    machines = tuple(Machine(Capacity(count, 0)) for count in cpus)
    resources = Resources(workers=2, cpus_per_worker=2)
    assert groups_for(resources, machines, workers=2, most=most) == groups


def test_waiting_stage_names_what_it_needs(plan: Plan) -> None:
    states = _states(plan, search=State.RUNNING, a=State.RUNNING)
    assert find_waits(plan, states, free=Capacity(16, 0)) == {"b": "needs a", "c": "needs b"}
    states = _states(plan, search=State.DONE, a=State.DONE)
    assert find_waits(plan, states, free=Capacity(1, 0)) == {"c": "needs b"}


def test_stage_that_does_not_fit_now_says_what_is_free(plan: Plan) -> None:
    states = _states(plan, search=State.RUNNING)
    waits = find_waits(plan, states, free=Capacity(3, 0))
    assert waits["a"] == "needs 4 CPUs, 3 free"
    assert "search" not in waits


@pytest.mark.parametrize(
    ("wanted", "free", "lack"),
    [
        (Capacity(8, 8), Capacity(8, 4), "8 GPUs, 4 free"),
        (Capacity(1, 1), Capacity(0, 0), "1 GPU, 0 free; 1 CPU, 0 free"),
        (Capacity(1, 0.5, 64), Capacity(1, 0.25, 12.5), "0.5 GPUs, 0.25 free; 64 GiB, 12.5 free"),
        (Capacity(2, 0), Capacity(-1, 0), "2 CPUs, 0 free"),
        (Capacity(2, 1, 1), Capacity(2, 1, 1), None),
    ],
)
def test_lack_names_only_what_is_short(wanted: Capacity, free: Capacity, lack: str | None) -> None:
    assert lacking(wanted, free) == lack
