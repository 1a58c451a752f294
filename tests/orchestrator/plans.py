"""Plans without a job file, for tests of what is computed from a Plan."""

from __future__ import annotations

from orchestrator.artifact import Ref
from orchestrator.plan import Plan, PlannedStage, Verdict
from orchestrator.spec import Job, Resources, Stage
from tests.orchestrator.counting import COUNT, CountParams


def planned(
    name: str,
    needs: tuple[str, ...] = (),
    verdict: Verdict = Verdict.RUN,
    resources: Resources | None = None,
) -> PlannedStage:
    """A stage of the kind `count` that reads the outputs of the stages `needs`."""
    stage = Stage(
        name=name,
        kind=COUNT,
        params=CountParams(data="data"),
        seed=0,
        resources=resources or Resources(),
        expect={},
        params_from=None,
        inputs={need: Ref(need, "count") for need in needs},
        files={},
    )
    return PlannedStage(stage, recipe={}, key="", verdict=verdict, why="")


def plan_of(*stages: PlannedStage) -> Plan:
    named = {one.name: one.stage for one in stages}
    return Plan(Job(name="job", store="/store", seed=0, stages=named), stages)
