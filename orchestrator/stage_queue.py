"""The queue of a run's stages: which of them start next, and what the others wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from orchestrator.admission import patience_s
from orchestrator.capacity import Machine
from orchestrator.cluster.ledger import Ledger
from orchestrator.plan import Plan
from orchestrator.schedule import Block, Queue, Start, State, decide, find_waits, ready_stages


@dataclass
class StageQueue:
    """Decides for a run. The ledger has what its running stages use."""

    plan: Plan
    ledger: Ledger
    find_machines: Callable[[], tuple[Machine, ...]]
    """Returns the machines of the cluster at once."""
    lengths_s: Mapping[str, float] = field(default_factory=dict)
    """By stage, the time from its start to the end of the last stage that needs it."""
    clock: Callable[[], float] = time.monotonic
    """In seconds."""
    _ready_since_s: dict[str, float] = field(default_factory=dict)

    def decide(
        self, states: Mapping[str, State], *, elsewhere: Collection[str]
    ) -> list[Start | Block]:
        """Return the decisions for now. The stages `elsewhere` are running in another run."""
        overdue, can_grow = self._overdue(states), self.ledger.can_grow
        queue = Queue(self.lengths_s, overdue, elsewhere, can_grow=can_grow)
        return list(decide(self.plan, states, machines=self._machines(), queue=queue))

    def find_waits(
        self, states: Mapping[str, State], *, elsewhere: Mapping[str, str]
    ) -> dict[str, str]:
        """Return what each waiting stage waits for, by its name."""
        machines = self._machines()
        waits = find_waits(self.plan, states, machines=machines, elsewhere=elsewhere)
        overdue = self._overdue(states) - elsewhere.keys()
        for planned in ready_stages(self.plan, states):
            ahead = sorted(overdue - {planned.name})
            if ahead and planned.name not in waits:
                waits[planned.name] = f"behind {', '.join(ahead)}"
        return waits

    def _machines(self) -> tuple[Machine, ...]:
        """The machines of the cluster, used by the stages of this run. Machines join and leave."""
        return self.ledger.used(self.find_machines())

    def _overdue(self, states: Mapping[str, State]) -> frozenset[str]:
        """The stages that have been ready for so long that machines are kept for them."""
        now_s, ready = self.clock(), ready_stages(self.plan, states)
        self._ready_since_s = {
            planned.name: self._ready_since_s.get(planned.name, now_s) for planned in ready
        }
        return frozenset(
            planned.name
            for planned in ready
            if now_s - self._ready_since_s[planned.name] >= patience_s(planned.stage.resources)
        )
