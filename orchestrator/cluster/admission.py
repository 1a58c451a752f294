"""Ask whether a group of workers may start: in this process if it started Ray itself, else an actor
that all runs on the cluster share."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator import admission, capacity, fleet
from orchestrator.admission import Admission, Asker, Request
from orchestrator.artifact import digest_of
from orchestrator.capacity import Machine
from orchestrator.cluster.events import NAMESPACE
from orchestrator.fleet import Placement
from orchestrator.spec import Resources

ANSWER_TIMEOUT_S = 10.0


class Gate(Protocol):
    """Admits the groups of a run. Thread-safe."""

    def ask(self, request: Request, machines: Sequence[Machine]) -> Placement | str:
        """Return where the group may start now, or why it has to wait."""

    def withdraw(self, asker: Asker) -> None:
        """Forget a stage: its group has ended, or it no longer waits."""

    def report(self, run_id: str) -> None:
        """Note that the run still exists."""

    def leave(self, run_id: str) -> None:
        """Forget the run, which has ended."""


@dataclass
class OwnGate:
    """The gate of a cluster that only this run uses."""

    _admission: Admission = field(default_factory=Admission)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, request: Request, machines: Sequence[Machine]) -> Placement | str:
        with self._lock:
            return self._admission.ask(request, machines)

    def withdraw(self, asker: Asker) -> None:
        with self._lock:
            self._admission.withdraw(asker)

    def report(self, run_id: str) -> None:
        """Nothing forgets the only run."""

    def leave(self, run_id: str) -> None:
        """Nothing outlives the only run."""


class SharedGate:
    """The gate of a cluster that several runs may use: an actor without CPUs.

    If the actor does not answer, the run decides for itself, and Ray makes what does not fit wait.
    """

    def __init__(self) -> None:
        self._own = OwnGate()
        self._lock = threading.Lock()
        self._known: Any = None

    def ask(self, request: Request, machines: Sequence[Machine]) -> Placement | str:
        try:
            answer: Placement | str = self._answer(
                lambda actor: actor.ask.remote(request, machines)
            )
        except _NO_ANSWER:
            return self._own.ask(request, machines)
        return answer

    def withdraw(self, asker: Asker) -> None:
        self._own.withdraw(asker)
        self._tell(lambda actor: actor.withdraw.remote(asker))

    def report(self, run_id: str) -> None:
        self._tell(lambda actor: actor.report.remote(run_id))

    def leave(self, run_id: str) -> None:
        self._tell(lambda actor: actor.leave.remote(run_id))

    def _tell(self, call: Callable[[Any], Any]) -> None:
        """Send a message without waiting for an answer. An actor that was never asked knows nothing
        of this run. Takes no lock: a thread that has it may wait for a lost head."""
        known = self._known
        with suppress(ray.exceptions.RayError):
            if known is not None:
                call(known)

    def _answer(self, call: Callable[[Any], Any]) -> Any:
        """Return the actor's answer. Starts another actor if it no longer exists."""
        for is_last in (False, True):
            try:
                with self._lock:
                    answer = call(self._actor())
                return ray.get(answer, timeout=ANSWER_TIMEOUT_S)
            except ray.exceptions.RayActorError:
                self._known = None
                if is_last:
                    raise
        raise AssertionError("the loop returns or raises")

    def _actor(self) -> Any:
        if self._known is None:
            self._known = _shared_actor()
        return self._known


_NO_ANSWER = (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError)


def _shared_actor() -> Any:
    """Return the cluster's actor, which is started by the first run that needs it and stays: it
    costs no CPU. It holds nothing that a run could not do without."""
    near = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return (
        ray.remote(Admission)
        .options(
            name=shared_name(),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            scheduling_strategy=near,
        )
        .remote()
    )


@functools.cache
def shared_name() -> str:
    """The name of the actor in Ray. Runs with the same code for admission share it, because it
    unpickles their requests."""
    sources = [inspect.getsource(module) for module in (admission, fleet, capacity)]
    return f"admission-{digest_of([*sources, sorted(Resources.model_fields)])[:8]}"
