"""One small actor that carries events from workers to the driver, and the driver's stop request to
the workers. No call waits for it long."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.cluster.hardware import Hardware
from orchestrator.monitoring.tally import Amounts
from orchestrator.runs.cancel import WHOLE_RUN
from orchestrator.runs.record import StageEvent

MAX_WAITING = 10_000
"""Events kept until the driver fetches them. Beyond that, new events replace the oldest."""
NAMESPACE = "orchestrator"


class Events:
    """The actor's state."""

    def __init__(self) -> None:
        self._waiting: deque[StageEvent | Amounts] = deque(maxlen=MAX_WAITING)
        self._stopping: frozenset[str] = frozenset()
        self._num_resting: Counter[str] = Counter()
        self._notes: dict[str, dict[Any, Hardware]] = {}

    def add(self, sent: StageEvent | Amounts) -> None:
        self._waiting.append(sent)

    def drain(self) -> list[StageEvent | Amounts]:
        sent = list(self._waiting)
        self._waiting.clear()
        return sent

    def stop(self, stages: frozenset[str]) -> None:
        """Set what should stop. Only the driver calls it."""
        self._stopping = stages

    def stopping(self) -> frozenset[str]:
        return self._stopping

    def note(self, stage: str, worker: Any, hardware: Hardware) -> None:
        self._notes.setdefault(stage, {})[worker] = hardware

    def notes(self, stage: str) -> dict[Any, Hardware]:
        return self._notes.get(stage, {})

    def rest(self, stage: str) -> None:
        self._num_resting[stage] += 1

    def num_resting(self, stage: str) -> int:
        return self._num_resting[stage]


class EventChannel:
    """A handle to the actor that is sent to the workers."""

    def __init__(self, run_id: str) -> None:
        """Start the actor. It is named after the run for Ray's dashboard, and ends with its
        driver."""
        # It runs on the driver's machine: if another machine is lost, no events are lost with it.
        # With soft=True, Ray put it elsewhere, and 8 of 53 events were lost with that machine.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {
            "name": f"events-{run_id}",
            "namespace": NAMESPACE,
            "num_cpus": 0,
            "max_restarts": -1,
        }
        self._actor: ActorHandle = (
            ray.remote(Events).options(**options, scheduling_strategy=here).remote()
        )
        self._draining: ObjectRef | None = None
        self._stopping: frozenset[str] = frozenset()
        self._amounts: list[Amounts] = []

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the pending request for events."""
        return {**self.__dict__, "_draining": None, "_amounts": []}

    def send(self, event: StageEvent) -> None:
        """Send an event without waiting. It may be lost with the actor's machine."""
        self._actor.add.remote(event)

    def count(self, amounts: Amounts) -> None:
        """Send amounts for the live metrics without waiting. They may be lost like events."""
        self._actor.add.remote(amounts)

    def note(self, stage: str, worker: Any, hardware: Hardware) -> None:
        """Note without waiting what a worker of the stage runs on. It replaces an earlier note of
        the same worker, and may be lost like events."""
        self._actor.note.remote(stage, worker, hardware)

    def notes(self, stage: str, timeout_s: float = 5.0) -> dict[Any, Hardware]:
        """Return the notes about a stage by worker; none if the actor does not answer in time."""
        return self._answer(self._actor.notes, timeout_s, stage) or {}

    def take_amounts(self) -> list[Amounts]:
        """Return the amounts that came with the events of `drain` since the last call."""
        taken, self._amounts = self._amounts, []
        return taken

    def drain(self, timeout_s: float = 5.0) -> list[StageEvent]:
        """Return all events sent since the last call. If the actor does not answer in time, returns
        none, and the next call returns them."""
        is_late = self._draining is not None
        events = self._drain(timeout_s)
        if is_late and self._draining is None:  # that answer lacks events sent after its request
            events += self._drain(timeout_s)
        return events

    def _drain(self, timeout_s: float) -> list[StageEvent]:
        """Return the events of the oldest unanswered request. The actor returns each event only
        once."""
        self._draining = self._draining or self._actor.drain.remote()
        try:
            sent: list[StageEvent | Amounts] = ray.get(self._draining, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            return []
        except ray.exceptions.RayActorError:
            sent = []
        self._draining = None
        self._amounts += [one for one in sent if isinstance(one, Amounts)]
        return [one for one in sent if isinstance(one, StageEvent)]

    def request_stop(self, stage: str = WHOLE_RUN) -> None:
        """Ask the workers of a stage, or of the whole run, to stop. Call it repeatedly: an actor
        that was restarted has lost the request."""
        self._stopping |= {stage}
        self._actor.stop.remote(self._stopping)

    def allow(self, stage: str) -> None:
        """Take back a request to stop a stage, which starts again."""
        if stage in self._stopping:
            self._stopping -= {stage}
            self._actor.stop.remote(self._stopping)

    def is_stopping(self, stage: str, timeout_s: float = 5.0) -> bool:
        """Whether the workers of `stage` should stop; False if the actor does not answer in time.

        The process that requested the stop, such as the driver, does not need the actor.
        """
        wanted = {stage, WHOLE_RUN}
        return bool(wanted & self._stopping) or bool(wanted & self._requests(timeout_s))

    def is_interrupted(self, timeout_s: float = 5.0) -> bool:
        """Whether the whole run should stop; False if the actor does not answer in time."""
        return WHOLE_RUN in self._stopping or WHOLE_RUN in self._requests(timeout_s)

    def _requests(self, timeout_s: float) -> frozenset[str]:
        return self._answer(self._actor.stopping, timeout_s) or frozenset()

    def rest(self, stage: str) -> None:
        """Report that a trial of the search `stage` has stopped and waits for the run to end."""
        self._actor.rest.remote(stage)

    def num_resting(self, stage: str, timeout_s: float = 5.0) -> int:
        """The number of trials that called `rest`; 0 if the actor does not answer in time."""
        return self._answer(self._actor.num_resting, timeout_s, stage) or 0

    def _answer(self, method: Any, timeout_s: float, *arguments: str) -> Any:
        try:
            return ray.get(method.remote(*arguments), timeout=timeout_s)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
            return None
