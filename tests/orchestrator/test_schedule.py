"""Which stages start when, and with what capacity."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.capacity import Capacity, Machine, lacking
from orchestrator.fleet import shortfall
from orchestrator.plan import Plan
from orchestrator.planning import plan_job
from orchestrator.schedule import Block, Queue, Start, State, decide, find_waits
from orchestrator.spec import load_job
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


IN_ORDER = Queue()
"""The order of the file."""


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


def machines_with(*cpus: float) -> tuple[Machine, ...]:
    """Machines named m0, m1 and so on, with 16 CPUs each, of which so many are free."""
    total = Capacity(16, 0)
    return tuple(
        Machine(total, name=f"m{index}", used=total - Capacity(free, 0))
        for index, free in enumerate(cpus)
    )


def _starts(
    plan: Plan, states: dict[str, State], machines: tuple[Machine, ...], queue: Queue = IN_ORDER
) -> list[Start]:
    decisions = decide(plan, states, machines=machines, queue=queue)
    return [decision for decision in decisions if isinstance(decision, Start)]


def _started(plan: Plan, states: dict[str, State], cpus: float) -> dict[str, int]:
    """The number of trials at a time of each stage that starts, on one machine."""
    return {start.stage.name: start.slots for start in _starts(plan, states, machines_with(cpus))}


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
    (block,) = decide(plan, states, machines=machines_with(16), queue=Queue())
    assert isinstance(block, Block)
    assert block.stage.name == "b"
    assert block.why == "it needs a"


def test_stage_with_a_worker_range_starts_with_its_minimum(tmp_path: Path) -> None:
    plan = _plan(tmp_path, JOB.replace("{workers: 2, cpus_per_worker: 2}", "{workers: [2, 6]}"))
    (start,) = _starts(plan, _states(plan, search=State.DONE), machines_with(3))
    assert start.placement == {"m0": 2}
    assert shortfall(plan["a"], (Machine(Capacity(2, 0)),)) is None
    reason = (
        "a: needs at least 2 workers with 1 CPU each, but the cluster has 1 CPU, where 1 of "
        "them fit"
    )
    assert reason in str(shortfall(plan["a"], (Machine(Capacity(1, 0)),)))


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


def test_waiting_stage_names_what_it_needs(plan: Plan) -> None:
    states = _states(plan, search=State.RUNNING, a=State.RUNNING)
    assert find_waits(plan, states, machines=machines_with(16)) == {"b": "needs a", "c": "needs b"}
    states = _states(plan, search=State.DONE, a=State.DONE)
    assert find_waits(plan, states, machines=machines_with(1)) == {"c": "needs b"}


def test_stage_that_does_not_fit_now_says_what_is_free(plan: Plan) -> None:
    states = _states(plan, search=State.RUNNING)
    waits = find_waits(plan, states, machines=machines_with(3))
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


WIDE = """
name: counts
store: ./store
stages:
  small0: {kind: count, data: data}
  small1: {kind: count, data: data}
  large: {kind: count, data: data, resources: {workers: 2, cpus_per_worker: 8}}
  after: {kind: count, data: data, source: small1.count}
"""


@pytest.fixture
def wide(tmp_path: Path) -> Plan:
    return _plan(tmp_path, WIDE)


def test_stages_on_the_longest_path_start_first(wide: Plan) -> None:
    queue = Queue(lengths_s={"small0": 5, "small1": 60, "large": 30, "after": 50})
    assert [
        start.stage.name for start in _starts(wide, _states(wide), machines_with(16), queue)
    ] == [
        "small1",
        "small0",
    ]


def test_large_stage_waits_while_small_ones_fit(wide: Plan) -> None:
    starts = _starts(wide, _states(wide), machines_with(3, 9))
    assert [start.stage.name for start in starts] == ["small0", "small1"]


def test_no_stage_starts_on_machines_that_an_overdue_one_needs(wide: Plan) -> None:
    queue = Queue(overdue=frozenset({"large"}), lengths_s={"large": 10})
    assert _starts(wide, _states(wide), machines_with(9), queue) == []
    starts = _starts(wide, _states(wide), machines_with(3, 9), queue)
    assert [start.placement for start in starts] == [{"m0": 1}, {"m0": 1}]


def test_stage_that_fits_on_no_machine_any_more_starts_to_wait_for_one(wide: Plan) -> None:
    few = (Machine(Capacity(4, 0), name="m0"),)
    (large,) = (start for start in _starts(wide, _states(wide), few) if start.stage.name == "large")
    assert large.placement == {}


def test_waiting_stage_says_that_no_machine_has_room_for_a_worker(wide: Plan) -> None:
    waits = find_waits(wide, _states(wide), machines=machines_with(7, 7, 7))
    assert waits["large"] == (
        "needs 2 workers with 8 CPUs each, but the cluster has 3 x (7 CPUs), where 0 of them fit"
    )


def test_group_that_never_fits_is_reported_with_the_machines(plan: Plan) -> None:
    machines = (Machine(Capacity(3, 0), name="m0"), Machine(Capacity(1, 0), name="m1"))
    assert shortfall(plan["b"], machines) is None
    assert shortfall(plan["a"], machines[:1] * 2) is None
    assert shortfall(plan["a"], machines_with(0)) is None
    reason = shortfall(plan["a"], machines)
    assert reason is not None
    assert (
        "a: needs 2 workers with 2 CPUs each, but the cluster has 3 CPUs; 1 CPU, where 1 of them "
        "fit" in reason
    )
