"""Plans of many stages on a simulated fleet of different machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.capacity import NOTHING, Capacity, Machine, lacking
from orchestrator.cluster.ledger import Ledger
from orchestrator.critical_path import critical_path_s
from orchestrator.plan import Plan, PlannedStage
from orchestrator.schedule import Start, State, ready_stages
from orchestrator.spec import Resources
from orchestrator.stage_queue import StageQueue
from tests.orchestrator.plans import plan_of, planned

FLEET = (
    Machine(Capacity(16, 8), {"zone": "a"}, "a"),
    Machine(Capacity(16, 8), {"zone": "b"}, "b"),
    Machine(Capacity(8, 4), {"zone": "a"}, "small"),
    Machine(Capacity(8, 0), {"zone": "a"}, "plain"),
)
PATIENCE_S = 15.0
"""A quarter of one minute."""


@dataclass
class SimulatedRun:
    """A run whose stages take known times."""

    plan: Plan
    durations_s: Mapping[str, int]
    now_s: float = 0.0
    states: dict[str, State] = field(init=False)
    began_s: dict[str, float] = field(default_factory=dict)
    ready_s: dict[str, float] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    queue: StageQueue = field(init=False)

    def __post_init__(self) -> None:
        self.states = dict.fromkeys((one.name for one in self.plan.stages), State.WAITING)
        lengths_s = critical_path_s(self.plan, self.durations_s)
        self.queue = StageQueue(
            self.plan, self.ledger, lambda: FLEET, lengths_s, clock=lambda: self.now_s
        )

    def run(self) -> None:
        """Run until all stages are done or nothing runs any more."""
        while True:
            for one in ready_stages(self.plan, self.states):
                self.ready_s.setdefault(one.name, self.now_s)
            self._start()
            ends_s = [self._end_s(name) for name in self._running()]
            if not ends_s:
                return
            self.now_s = min(*ends_s, self.now_s + PATIENCE_S)
            for name in self._running():
                if self._end_s(name) <= self.now_s:
                    self.states[name] = State.DONE
                    self.ledger.release(name)

    def _start(self) -> None:
        for decision in self.queue.decide(self.states, elsewhere=()):
            assert isinstance(decision, Start)
            stage = decision.stage.stage
            self.ledger.take(stage.name, stage.resources, decision.placement)
            self.states[stage.name], self.began_s[stage.name] = State.RUNNING, self.now_s
        assert all(lacking(NOTHING, one.free) is None for one in self.ledger.used(FLEET))

    def _running(self) -> list[str]:
        return [name for name, state in self.states.items() if state is State.RUNNING]

    def _end_s(self, name: str) -> float:
        return self.began_s[name] + self.durations_s[name]


@st.composite
def _runs(draw: st.DrawFn) -> SimulatedRun:
    """Runs of 50 stages, each of which needs up to two of those before it."""
    stages: list[PlannedStage] = []
    for number in range(50):
        before = [one.name for one in stages[-6:]]
        needs = draw(st.sets(st.sampled_from(before), max_size=2)) if before else set()
        resources = Resources(
            workers=draw(st.sampled_from([1, 2, 4, 6])),
            gpus_per_worker=draw(st.sampled_from([0, 0.5, 1])),
            labels=draw(st.sampled_from([{}, {"zone": "a"}, {"zone": "!a"}])),
            max_wait_min=1,
        )
        stages.append(planned(f"s{number}", tuple(sorted(needs)), resources=resources))
    durations_s = {one.name: draw(st.integers(1, 60)) for one in stages}
    return SimulatedRun(plan_of(*stages), durations_s)


@settings(max_examples=25, deadline=None)
@given(run=_runs())
def test_fifty_stages_on_a_mixed_fleet_all_end_and_overload_no_machine(run: SimulatedRun) -> None:
    run.run()
    assert set(run.states.values()) == {State.DONE}


@settings(max_examples=25, deadline=None)
@given(run=_runs())
def test_stage_only_starts_before_an_equal_one_on_a_longer_path_if_it_is_overdue(
    run: SimulatedRun,
) -> None:
    run.run()
    rows = [(one.name, one.stage.resources) for one in run.plan.stages]
    for first, resources in rows:
        for second, others in rows:
            is_longer = run.queue.lengths_s[first] > run.queue.lengths_s[second]
            is_overdue = run.began_s[second] - run.ready_s[second] >= PATIENCE_S
            if resources == others and is_longer and not is_overdue:
                is_ready = run.ready_s[first] <= run.began_s[second]
                assert not is_ready or run.began_s[first] <= run.began_s[second]


def test_stage_that_needs_everything_starts_while_small_ones_keep_becoming_ready() -> None:
    small = Resources(gpus_per_worker=1)
    large = Resources(workers=12, gpus_per_worker=1, max_wait_min=1)
    chains = [
        planned(f"s{chain}_{link}", (f"s{chain}_{link - 1}",) if link else (), resources=small)
        for chain in range(20)
        for link in range(30)
    ]
    # The large stage is on the shortest path, so all others that fit go first.
    run = SimulatedRun(
        plan_of(*chains, planned("large", resources=large)),
        {**{one.name: 10 + int(one.name[1:].split("_")[0]) for one in chains}, "large": 5},
    )
    run.run()
    assert set(run.states.values()) == {State.DONE}
    assert run.began_s["large"] <= 60


def test_waiting_stage_names_the_overdue_one_that_goes_first() -> None:
    whole = Resources(workers=12, gpus_per_worker=1, max_wait_min=1)
    long = Resources(workers=10, gpus_per_worker=1)
    one = Resources(gpus_per_worker=1)
    plan = plan_of(
        planned("long", resources=long),
        planned("whole", resources=whole),
        planned("one", resources=one),
    )
    run = SimulatedRun(plan, {"long": 500, "whole": 1, "one": 1})
    states = {"long": State.RUNNING, "whole": State.WAITING, "one": State.DONE}
    run.ledger.take("long", long, {"a": 6, "small": 4})
    run.queue.decide(states, elsewhere=())
    run.now_s = PATIENCE_S
    states["one"] = State.WAITING
    assert run.queue.decide(states, elsewhere=()) == []
    assert run.queue.find_waits(states, elsewhere={})["one"] == "behind whole"
