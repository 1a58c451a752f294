"""Room for a stage on a cluster that others use too: waits for it, and says so, up to the job's deadline."""

from __future__ import annotations

import time

from orchestrator.cluster.connection import free_machines
from orchestrator.cluster.events import EventChannel
from orchestrator.contract import Event
from orchestrator.errors import ClusterError
from orchestrator.plan import PlannedStage
from orchestrator.record import StageEvent
from orchestrator.schedule import missing_room

LOOK_EVERY_S = 1.0
TELL_EVERY_S = 60.0


def await_room(planned: PlannedStage, channel: EventChannel) -> None:
    """Return once the cluster has room for one group of the stage's workers.

    Ray itself would wait for ever, and say nothing. Raises ClusterError after `resources.max_wait_min`.
    """
    resources = planned.stage.resources
    start_s, told_s = time.monotonic(), float("-inf")
    while (missing := missing_room(resources, free_machines())) is not None:
        now_s = time.monotonic()
        if now_s - start_s > resources.max_wait_min * 60:
            raise ClusterError(
                f"waited {resources.max_wait_min:g} minutes for room: {missing} now; run the same command again later, "
                f"or change stages.{planned.name}.resources (max_wait_min is among them)"
            )
        if now_s - told_s > TELL_EVERY_S:
            event = Event(f"waiting for room: {missing} now")
            channel.send(StageEvent(planned.name, 1, time.time(), event))
            told_s = now_s
        time.sleep(LOOK_EVERY_S)
