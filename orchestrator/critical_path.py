"""How long each stage delays the end of a run: the critical path of a Plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from orchestrator.plan import Plan, Verdict

UNKNOWN_S = 1.0
"""Duration of each stage if none is known. The longest chain of stages is then the most urgent."""


def critical_path_s(plan: Plan, durations: Mapping[str, float]) -> Mapping[str, float]:
    """Return, by stage, the seconds from its start until the last of the stages that need it ends.

    This is its own duration plus the longest sum of the stages that need it, directly or not, with
    enough capacity for all of them. A reused stage takes 0 s. A stage that is not in `durations` is
    expected to take their mean.
    """
    expected_s = fmean(durations.values()) if durations else UNKNOWN_S
    after_s = dict.fromkeys((planned.name for planned in plan.stages), 0.0)
    path_s: dict[str, float] = {}
    for planned in reversed(plan.stages):  # a stage comes after those that it needs
        is_reused = planned.verdict is Verdict.REUSE
        own_s = 0.0 if is_reused else durations.get(planned.name, expected_s)
        path_s[planned.name] = own_s + after_s[planned.name]
        for need in planned.stage.needs:
            after_s[need] = max(after_s[need], path_s[planned.name])
    return {planned.name: path_s[planned.name] for planned in plan.stages}
