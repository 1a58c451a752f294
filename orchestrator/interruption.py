"""Which running stages an interrupted run waits for."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.cluster.events import EventChannel
from orchestrator.plan import Plan, PlannedStage
from orchestrator.runs.record import RunRecord
from orchestrator.schedule import Start


def can_stop(plan: Plan, planned: PlannedStage) -> bool:
    """Whether a stage, or a search's trials, check `should_stop`."""
    search = planned.stage.search
    kind = planned.stage.kind if search is None else plan.job.stages[search.of].kind
    return kind.stops


def stopping(
    running: Iterable[Start], plan: Plan, record: RunRecord, channel: EventChannel
) -> list[Start]:
    """Return the running stages that may still write a checkpoint before the run ends."""
    return [
        start
        for start in running
        if can_stop(plan, start.stage) and not _is_at_rest(start, record, channel)
    ]


def _is_at_rest(start: Start, record: RunRecord, channel: EventChannel) -> bool:
    """Whether all running trials of a search have stopped. The search itself does not end."""
    search = record.stages[start.stage.name].search
    if search is None:
        return False
    most = min(start.slots, search.num_left)
    return channel.num_resting(start.stage.name) >= min(most, search.num_under_way or most)
