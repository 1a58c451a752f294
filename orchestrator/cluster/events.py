"""Events from workers to the driver, through one small actor; workers send and forget."""

from __future__ import annotations

from collections import deque

import ray
from ray.actor import ActorHandle

from orchestrator.record import StageEvent

MAX_WAITING = 10_000
"""Events kept for a driver that does not fetch them; later ones push out the oldest."""
NAMESPACE = "orchestrator"


class Events:
    """The actor's state."""

    def __init__(self) -> None:
        self._waiting: deque[StageEvent] = deque(maxlen=MAX_WAITING)

    def add(self, event: StageEvent) -> None:
        self._waiting.append(event)

    def drain(self) -> list[StageEvent]:
        events = list(self._waiting)
        self._waiting.clear()
        return events


class EventChannel:
    """A handle that travels to the workers."""

    def __init__(self, run_id: str) -> None:
        """The actor is named after the run, so that Ray's dashboard tells whose it is, and ends with its driver."""
        # Started anew when its machine is lost: what waited there is lost, the events to come are not.
        options = {"name": f"events-{run_id}", "namespace": NAMESPACE, "num_cpus": 0, "max_restarts": -1}
        self._actor: ActorHandle = ray.remote(Events).options(**options).remote()

    def send(self, event: StageEvent) -> None:
        """Returns at once; an event may be lost when the actor's machine is."""
        self._actor.add.remote(event)

    def drain(self, timeout_s: float = 5.0) -> list[StageEvent]:
        """All events sent since the last call; empty when the actor does not answer in time."""
        try:
            events: list[StageEvent] = ray.get(self._actor.drain.remote(), timeout=timeout_s)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
            return []
        return events
