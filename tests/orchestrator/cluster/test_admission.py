"""Drivers on one Ray cluster ask the same actor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from orchestrator.admission import Asker, Request
from orchestrator.cluster.admission import SharedGate, shared_name
from orchestrator.cluster.connection import all_machines, connected
from orchestrator.cluster.events import NAMESPACE
from orchestrator.fleet import Placement
from orchestrator.spec import Resources


@pytest.fixture
def gates(
    cluster_address: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[SharedGate, SharedGate]]:
    """The gates of two runs, `a` and `b`."""
    # On a busy machine the shared actor may take longer to start than a run waits for it.
    monkeypatch.setattr("orchestrator.cluster.admission.ANSWER_TIMEOUT_S", 300)
    gates = SharedGate(), SharedGate()
    with connected(cluster_address):
        yield gates
        for gate, run in zip(gates, "ab", strict=True):
            gate.leave(run)


def _ask(gate: SharedGate, run: str, cpus: int) -> Placement | str:
    request = Request(
        Asker(run, "stage"), Resources(cpus_per_worker=cpus), (1,), length_s=0, reserved={}
    )
    return gate.ask(request, all_machines())


def test_what_one_run_was_admitted_to_is_not_free_for_another(
    gates: tuple[SharedGate, SharedGate],
) -> None:
    first, second = gates
    assert isinstance(_ask(first, "a", 3), dict)
    assert "where 0 of them fit now" in str(_ask(second, "b", 2))
    first.withdraw(Asker("a", "stage"))
    assert isinstance(_ask(second, "b", 2), dict)


def test_a_lost_actor_is_replaced(gates: tuple[SharedGate, SharedGate]) -> None:
    first, second = gates
    assert isinstance(_ask(first, "a", 3), dict)
    ray.kill(ray.get_actor(shared_name(), namespace=NAMESPACE))
    assert isinstance(_ask(first, "a", 3), dict)
    assert isinstance(_ask(second, "b", 2), str)
