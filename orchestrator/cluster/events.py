"""Events from workers to the driver, through one small actor; workers send and forget."""

from __future__ import annotations

import time
from dataclasses import dataclass

import ray
from ray.actor import ActorHandle

from orchestrator.contract import Event

MAX_WAITING = 10_000
"""Events kept for a driver that does not fetch them; later ones push out the oldest."""


@dataclass(frozen=True)
class StageEvent:
    """An event with its stage and the time (seconds since the epoch) at which it was sent."""

    stage: str
    time_s: float
    event: Event


class _Waiting:
    """The actor's state."""

    def __init__(self) -> None:
        self._events: list[StageEvent] = []

    def add(self, event: StageEvent) -> None:
        self._events = [*self._events[-MAX_WAITING:], event]

    def drain(self) -> list[StageEvent]:
        events, self._events = self._events, []
        return events


class EventChannel:
    """A handle that travels to the workers."""

    def __init__(self) -> None:
        self._actor: ActorHandle = ray.remote(num_cpus=0)(_Waiting).remote()

    def send(self, stage: str, event: Event) -> None:
        """Returns at once; an event may be lost when the driver's machine is."""
        self._actor.add.remote(StageEvent(stage, time.time(), event))

    def drain(self, timeout_s: float = 5.0) -> list[StageEvent]:
        """All events sent since the last call; empty when the actor does not answer in time."""
        try:
            events: list[StageEvent] = ray.get(self._actor.drain.remote(), timeout=timeout_s)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
            return []
        return events
