"""The critical path from each stage, compared with all chains of random plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.critical_path import critical_path_s
from orchestrator.plan import Plan, PlannedStage, Verdict
from tests.orchestrator.plans import plan_of, planned


@st.composite
def _plans(draw: st.DrawFn) -> Plan:
    """Plans of up to 8 stages, each of which needs some of those before it."""
    stages: list[PlannedStage] = []
    for number in range(draw(st.integers(1, 8))):
        before = [one.name for one in stages]
        needs = draw(st.sets(st.sampled_from(before))) if before else set()
        verdict = draw(st.sampled_from(Verdict))
        stages.append(planned(f"s{number}", tuple(sorted(needs)), verdict))
    return plan_of(*stages)


def _chains_from(plan: Plan, name: str) -> Iterator[tuple[str, ...]]:
    """All chains of stages that start with `name`, in which each needs the one before it."""
    yield (name,)
    for one in plan.stages:
        if name in one.stage.needs:
            for chain in _chains_from(plan, one.name):
                yield (name, *chain)


_DURATIONS = st.dictionaries(st.sampled_from([f"s{n}" for n in range(8)]), st.integers(0, 1000))


@given(_plans(), _DURATIONS)
def test_path_is_the_longest_of_all_chains(plan: Plan, durations: Mapping[str, int]) -> None:
    mean_s = sum(durations.values()) / len(durations) if durations else 1.0

    def cost_s(name: str) -> float:
        return 0.0 if plan[name].verdict is Verdict.REUSE else durations.get(name, mean_s)

    longest = {
        one.name: max(sum(map(cost_s, chain)) for chain in _chains_from(plan, one.name))
        for one in plan.stages
    }
    assert critical_path_s(plan, durations) == pytest.approx(longest)


def test_without_durations_each_stage_counts_as_one() -> None:
    plan = plan_of(planned("a", ()), planned("b", ("a",)), planned("c", ("a", "b")))
    assert critical_path_s(plan, {}) == {"a": 3.0, "b": 2.0, "c": 1.0}


def test_an_unknown_stage_takes_the_mean_and_a_reused_one_nothing() -> None:
    plan = plan_of(
        planned("old", (), Verdict.REUSE), planned("new", ("old",)), planned("last", ("new",))
    )
    assert critical_path_s(plan, {"old": 30.0, "last": 10.0}) == {
        "old": 30.0,
        "new": 30.0,
        "last": 10.0,
    }
