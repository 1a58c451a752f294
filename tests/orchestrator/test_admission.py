"""Groups of workers of several runs on one cluster start in a fair order."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.admission import FORGET_REQUEST_S, FORGET_RUN_S, Admission, Asker, Request
from orchestrator.capacity import NOTHING, Capacity, Machine, lacking, worker_capacity
from orchestrator.fleet import Placement, place, using
from orchestrator.spec import Resources

SMALL, ALL = Resources(gpus_per_worker=1), Resources(workers=4, gpus_per_worker=1)
PATIENCE_S = SMALL.max_wait_min * 60 / 4


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Cluster:
    """A machine with 4 GPUs, and what Ray shows as used on it."""

    clock: Clock = field(default_factory=Clock)
    busy: float = 0
    machines: Sequence[Machine] = ()
    admission: Admission = field(init=False)

    def __post_init__(self) -> None:
        self.admission = Admission(self.clock)

    def ask(
        self, run: str, stage: str, resources: Resources = SMALL, length_s: float = 0
    ) -> Placement | str:
        used = Capacity(self.busy, self.busy)
        machines = self.machines or (Machine(Capacity(64, 4), {}, "gpus", used),)
        counts = tuple(resources.worker_range)
        request = Request(Asker(run, stage), resources, counts, length_s=length_s, reserved={})
        return self.admission.ask(request, machines)

    def end(self, run: str, stage: str) -> None:
        self.admission.withdraw(Asker(run, stage))


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_group_starts_at_once_on_a_free_cluster(cluster: Cluster) -> None:
    assert cluster.ask("a", "x", ALL) == {"gpus": 4}


def test_admitted_group_counts_before_ray_shows_it_and_once_afterwards(cluster: Cluster) -> None:
    cluster.ask("a", "x")
    cluster.ask("a", "y")
    assert "where 2 of them fit" in str(cluster.ask("a", "z", ALL))
    cluster.busy = 2
    assert "where 2 of them fit" in str(cluster.ask("a", "z", ALL))


def test_free_gpu_goes_to_the_run_that_uses_less(cluster: Cluster) -> None:
    for stage in ("a0", "a1", "a2", "a3"):
        assert cluster.ask("a", stage) == {"gpus": 1}
    assert isinstance(cluster.ask("b", "b0"), str)
    cluster.end("a", "a0")
    assert isinstance(cluster.ask("a", "a4"), str)
    assert cluster.ask("b", "b0") == {"gpus": 1}


def test_longest_path_of_a_run_goes_first(cluster: Cluster) -> None:
    cluster.busy = 4
    cluster.ask("a", "short", length_s=1)
    cluster.ask("a", "long", length_s=9)
    cluster.busy = 3
    assert isinstance(cluster.ask("a", "short", length_s=1), str)
    assert cluster.ask("a", "long", length_s=9) == {"gpus": 1}


def test_small_groups_pass_a_large_one_until_it_is_overdue(cluster: Cluster) -> None:
    cluster.busy = 1
    cluster.ask("b", "large", ALL)
    assert cluster.ask("a", "a0") == {"gpus": 1}
    cluster.clock.now_s = PATIENCE_S
    cluster.ask("b", "large", ALL)
    assert cluster.ask("a", "a1") == "behind large of run b"
    cluster.busy = 0
    cluster.end("a", "a0")
    assert isinstance(cluster.ask("a", "a1"), str)
    assert cluster.ask("b", "large", ALL) == {"gpus": 4}


def test_two_groups_that_need_everything_start_one_after_the_other(cluster: Cluster) -> None:
    cluster.busy = 1
    while cluster.clock.now_s < 2 * PATIENCE_S:
        for run in ("a", "b"):
            cluster.ask(run, "large", ALL)
            cluster.clock.now_s += 1
    cluster.busy = 0
    assert isinstance(cluster.ask("b", "large", ALL), str)
    assert cluster.ask("a", "large", ALL) == {"gpus": 4}
    cluster.end("a", "large")
    assert cluster.ask("b", "large", ALL) == {"gpus": 4}


def test_driver_that_no_longer_asks_keeps_nobody_waiting(cluster: Cluster) -> None:
    cluster.busy = 1
    cluster.ask("dead", "large", ALL)
    cluster.clock.now_s = PATIENCE_S
    cluster.ask("dead", "large", ALL)
    assert isinstance(cluster.ask("a", "a0"), str)
    cluster.clock.now_s += FORGET_REQUEST_S + 1
    assert cluster.ask("a", "a0") == {"gpus": 1}


def test_what_a_vanished_run_held_is_free_as_soon_as_ray_shows_it(cluster: Cluster) -> None:
    cluster.ask("dead", "large", ALL)
    cluster.clock.now_s = FORGET_RUN_S
    assert isinstance(cluster.ask("a", "a0"), str)
    cluster.clock.now_s = FORGET_RUN_S + 1
    assert cluster.ask("a", "a0") == {"gpus": 1}


def test_run_that_reports_itself_keeps_what_it_holds(cluster: Cluster) -> None:
    cluster.ask("a", "large", ALL)
    cluster.clock.now_s = FORGET_RUN_S
    cluster.admission.report("a")
    cluster.clock.now_s = FORGET_RUN_S + 1
    assert isinstance(cluster.ask("b", "b0"), str)
    cluster.admission.leave("a")
    assert cluster.ask("b", "b0") == {"gpus": 1}


def test_group_with_a_range_grows_into_what_no_other_waits_for(cluster: Cluster) -> None:
    elastic = Resources(workers=(1, 4), gpus_per_worker=1)
    cluster.busy = 4
    cluster.ask("b", "b0")
    cluster.busy = 0
    assert cluster.ask("a", "elastic", elastic) == {"gpus": 3}
    assert cluster.ask("b", "b0") == {"gpus": 1}
    cluster.end("b", "b0")
    assert cluster.ask("a", "elastic", elastic) == {"gpus": 4}


@dataclass
class Drivers:
    """Drivers on a simulated cluster. Each asks for its next stage once a second; a stage ends
    after its duration. Ray shows what a group uses two seconds after it starts or ends."""

    machines: tuple[Machine, ...]
    waiting: dict[str, list[tuple[str, Resources, int]]]
    """By run: the name, resources and duration in seconds of its stages that can start."""
    cluster: Cluster = field(default_factory=Cluster)
    began_s: dict[tuple[str, str], int] = field(default_factory=dict)
    ended_s: dict[tuple[str, str], int] = field(default_factory=dict)
    _visible: dict[int, list[tuple[Placement, Capacity]]] = field(default_factory=dict)
    _used: dict[str, Capacity] = field(default_factory=dict)
    _ends: list[tuple[int, str, str]] = field(default_factory=list)
    _running: dict[tuple[str, str], tuple[Placement, Resources]] = field(default_factory=dict)

    def run(self, until_s: int) -> None:
        for now_s in range(until_s):
            self.step(now_s)

    def step(self, now_s: int) -> None:
        self.cluster.clock.now_s = now_s
        while self._ends and self._ends[0][0] <= now_s:
            self._end(now_s, *heapq.heappop(self._ends)[1:])
        for placement, amount in self._visible.pop(now_s, []):
            for name, count in placement.items():
                self._used[name] = self._used.get(name, NOTHING) + amount * count
        shown = [
            Machine(one.capacity, one.labels, one.name, self._used.get(one.name, NOTHING))
            for one in self.machines
        ]
        self.cluster.machines = shown
        for run, stages in self.waiting.items():
            for stage in tuple(stages):
                self._ask(now_s, run, stage)

    def _ask(self, now_s: int, run: str, stage: tuple[str, Resources, int]) -> None:
        name, resources, duration_s = stage
        answer = self.cluster.ask(run, name, resources)
        if isinstance(answer, str):
            return
        self.waiting[run].remove(stage)
        self.began_s[run, name] = now_s
        self._check_room(answer, worker_capacity(resources))
        self._running[run, name] = answer, resources
        heapq.heappush(self._ends, (now_s + duration_s, run, name))
        self._show(now_s, answer, worker_capacity(resources))

    def _check_room(self, placement: Placement, worker: Capacity) -> None:
        """Each machine has room for a group in addition to those that run."""
        free = using(self.machines, placement, worker)
        for running, resources in self._running.values():
            free = using(free, running, worker_capacity(resources))
        assert all(lacking(NOTHING, machine.free) is None for machine in free)

    def _end(self, now_s: int, run: str, name: str) -> None:
        placement, resources = self._running.pop((run, name))
        self.ended_s[run, name] = now_s
        self.cluster.end(run, name)
        self._show(now_s, placement, worker_capacity(resources) * -1)

    def _show(self, now_s: int, placement: Placement, amount: Capacity) -> None:
        self._visible.setdefault(now_s + 2, []).append((placement, amount))


GPUS = (Machine(Capacity(64, 4), {}, "gpus"),)


def test_two_runs_of_twenty_equal_stages_end_at_about_the_same_time() -> None:
    stages = [(f"s{index}", SMALL, 60) for index in range(20)]
    drivers = Drivers(GPUS, {"a": list(stages)})
    for now_s in range(30):  # the second run comes when the first has all GPUs
        drivers.step(now_s)
    drivers.waiting["b"] = list(stages)
    for now_s in range(30, 700):
        drivers.step(now_s)
    ends = [
        max(end_s for (of, _), end_s in drivers.ended_s.items() if of == run) for run in ("a", "b")
    ]
    assert len(drivers.ended_s) == 40
    assert max(ends) <= 1.25 * min(ends)


def test_stage_that_needs_all_gpus_starts_in_time_while_small_ones_keep_arriving() -> None:
    large = Resources(workers=4, gpus_per_worker=1, max_wait_min=10)
    drivers = Drivers(GPUS, {"a": [(f"s{index}", SMALL, 60) for index in range(8)], "b": []})
    for now_s in range(700):
        if now_s == 5:
            drivers.waiting["b"].append(("large", large, 60))
        if now_s % 15 == 14:
            drivers.waiting["a"].append((f"late{now_s}", SMALL, 60))
        drivers.step(now_s)
    assert drivers.began_s["b", "large"] <= 5 + large.max_wait_min * 60


stages_of_any_size = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.integers(1, 8),  # workers
        st.sampled_from([0, 0.5, 1, 2]),  # GPUs of each
        st.sampled_from([{}, {"zone": "a"}]),
        st.integers(1, 40),  # seconds
    ),
    min_size=1,
    max_size=50,
)
MIXED = (
    Machine(Capacity(16, 8), {"zone": "a"}, "a"),
    Machine(Capacity(16, 8), {"zone": "b"}, "b"),
    Machine(Capacity(8, 4), {"zone": "a"}, "small"),
    Machine(Capacity(8, 0), {"zone": "a"}, "plain"),
)


@settings(max_examples=40, deadline=None)
@given(stages=stages_of_any_size)
def test_every_stage_of_a_mixed_fleet_starts_without_overloading_a_machine(
    stages: list[tuple[str, int, float, dict[str, str], int]],
) -> None:
    waiting: dict[str, list[tuple[str, Resources, int]]] = {"a": [], "b": [], "c": []}
    for index, (run, workers, gpus, labels, duration_s) in enumerate(stages):
        resources = Resources(workers=workers, gpus_per_worker=gpus, labels=labels, max_wait_min=1)
        if place(resources, MIXED, num_workers=workers) is not None:
            waiting[run].append((f"s{index}", resources, duration_s))
    expected = {(run, name) for run, of_run in waiting.items() for name, *_ in of_run}
    drivers = Drivers(MIXED, waiting)
    drivers.run(until_s=sum(duration_s + 5 for *_, duration_s in stages) + 60)
    assert drivers.ended_s.keys() == expected
