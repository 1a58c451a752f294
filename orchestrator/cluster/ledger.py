"""What each stage of a run has reserved on the machines of the cluster."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from orchestrator.admission import Asker, Request
from orchestrator.capacity import NOTHING, Capacity, Machine, worker_capacity
from orchestrator.cluster.admission import Gate, OwnGate
from orchestrator.cluster.connection import all_machines
from orchestrator.fleet import Placement
from orchestrator.spec import Resources


@dataclass(frozen=True)
class _Reserved:
    placement: Placement
    worker: Capacity
    is_admitted: bool = False
    is_search: bool = False

    @property
    def is_pending(self) -> bool:
        """Whether workers will start that Ray does not show yet. Trials of a search come and go."""
        return self.is_search or not self.is_admitted


@dataclass
class Ledger:
    """What each running stage of the run has reserved, so that no two stages use the same.
    Thread-safe."""

    run_id: str = ""
    gate: Gate = field(default_factory=OwnGate)
    can_grow: bool = False
    """Whether the cluster's autoscaler may start machines."""
    _reserved: dict[str, _Reserved] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, stage: str, resources: Resources, placement: Placement) -> None:
        """Reserve machines for a stage that starts. Its group may get others."""
        with self._lock:
            self._reserved[stage] = _Reserved(placement, worker_capacity(resources))

    def release(self, stage: str) -> None:
        with self._lock:
            self._reserved.pop(stage, None)
        self.gate.withdraw(Asker(self.run_id, stage))

    def used(self, machines: Iterable[Machine]) -> tuple[Machine, ...]:
        """The machines with what the stages of this run have reserved on them."""
        with self._lock:
            reserved = _by_machine(self._reserved.values())
        return tuple(
            replace(machine, used=reserved.get(machine.name, NOTHING)) for machine in machines
        )

    def runs_others(self, stage: str) -> bool:
        """Whether other stages of the run use machines."""
        with self._lock:
            return any(one.is_admitted for name, one in self._reserved.items() if name != stage)

    def ask(
        self,
        stage: str,
        resources: Resources,
        counts: tuple[int, ...],
        *,
        length_s: float,
        num_groups: int = 1,
        avoids_gpus: bool = True,
    ) -> Placement | str:
        """Ask for the largest group of the stage that may start now, and reserve its machines.
        Returns why it has to wait if it has to.

        A search with `num_groups` trials at a time asks for the first one, and keeps what it has
        reserved for the others.
        """
        with self._lock:
            others = [
                one for name, one in self._reserved.items() if name != stage and one.is_pending
            ]
        request = Request(
            Asker(self.run_id, stage),
            resources,
            counts,
            length_s=length_s,
            reserved=_by_machine(others),
            avoids_gpus=avoids_gpus,
            num_groups=num_groups,
        )
        answer = self.gate.ask(request, all_machines())
        with self._lock:
            self._note(stage, resources, answer, is_search=num_groups > 1)
        return answer

    def _note(
        self, stage: str, resources: Resources, answer: Placement | str, *, is_search: bool
    ) -> None:
        before = self._reserved.get(stage)
        if isinstance(answer, str):
            # After a lost attempt, it no longer uses what it was admitted to.
            if before is not None:
                self._reserved[stage] = replace(before, is_admitted=False)
            return
        placement = before.placement if is_search and before is not None else answer
        worker = worker_capacity(resources)
        self._reserved[stage] = _Reserved(placement, worker, is_admitted=True, is_search=is_search)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.gate.leave(self.run_id)

    def report(self) -> None:
        """Report to the gate that the run still exists."""
        self.gate.report(self.run_id)


def _by_machine(reserved: Iterable[_Reserved]) -> Mapping[str, Capacity]:
    found: dict[str, Capacity] = defaultdict(lambda: NOTHING)
    for one in reserved:
        for name, count in one.placement.items():
            found[name] += one.worker * count
    return dict(found)
