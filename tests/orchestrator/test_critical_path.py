"""The critical path from each stage, compared with all chains of random plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.artifact import Ref
from orchestrator.critical_path import critical_path_s
from orchestrator.plan import Plan, PlannedStage, Verdict
from orchestrator.spec import Job, Resources, Stage
from tests.orchestrator.counting import COUNT, CountParams


def _planned(name: str, needs: tuple[str, ...], verdict: Verdict = Verdict.RUN) -> PlannedStage:
    stage = Stage(
        name=name,
        kind=COUNT,
        params=CountParams(data="data"),
        seed=0,
        resources=Resources(),
        expect={},
        params_from=None,
        inputs={need: Ref(need, "count") for need in needs},
        files={},
    )
    return PlannedStage(stage, recipe={}, key="", verdict=verdict, why="")


def _plan(*stages: PlannedStage) -> Plan:
    named = {planned.name: planned.stage for planned in stages}
    return Plan(Job(name="job", store="/store", seed=0, stages=named), stages)


@st.composite
def _plans(draw: st.DrawFn) -> Plan:
    """Plans of up to 8 stages, each of which needs some of those before it."""
    stages: list[PlannedStage] = []
    for number in range(draw(st.integers(1, 8))):
        before = [planned.name for planned in stages]
        needs = draw(st.sets(st.sampled_from(before))) if before else set()
        verdict = draw(st.sampled_from(Verdict))
        stages.append(_planned(f"s{number}", tuple(sorted(needs)), verdict))
    return _plan(*stages)


def _chains_from(plan: Plan, name: str) -> Iterator[tuple[str, ...]]:
    """All chains of stages that start with `name`, in which each needs the one before it."""
    yield (name,)
    for planned in plan.stages:
        if name in planned.stage.needs:
            for chain in _chains_from(plan, planned.name):
                yield (name, *chain)


_DURATIONS = st.dictionaries(st.sampled_from([f"s{n}" for n in range(8)]), st.integers(0, 1000))


@given(_plans(), _DURATIONS)
def test_path_is_the_longest_of_all_chains(plan: Plan, durations: Mapping[str, int]) -> None:
    mean_s = sum(durations.values()) / len(durations) if durations else 1.0

    def cost_s(name: str) -> float:
        return 0.0 if plan[name].verdict is Verdict.REUSE else durations.get(name, mean_s)

    longest = {
        planned.name: max(sum(map(cost_s, chain)) for chain in _chains_from(plan, planned.name))
        for planned in plan.stages
    }
    assert critical_path_s(plan, durations) == pytest.approx(longest)


def test_without_durations_each_stage_counts_as_one() -> None:
    plan = _plan(_planned("a", ()), _planned("b", ("a",)), _planned("c", ("a", "b")))
    assert critical_path_s(plan, {}) == {"a": 3.0, "b": 2.0, "c": 1.0}


def test_an_unknown_stage_takes_the_mean_and_a_reused_one_nothing() -> None:
    plan = _plan(
        _planned("old", (), Verdict.REUSE), _planned("new", ("old",)), _planned("last", ("new",))
    )
    assert critical_path_s(plan, {"old": 30.0, "last": 10.0}) == {
        "old": 30.0,
        "new": 30.0,
        "last": 10.0,
    }
