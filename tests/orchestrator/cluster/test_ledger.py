"""The stages of a run reserve machines, and no two of them the same."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.capacity import Capacity, Machine
from orchestrator.cluster import ledger as ledger_module
from orchestrator.cluster.ledger import Ledger
from orchestrator.spec import Resources

FIXED = Resources(workers=3)
ELASTIC = Resources(workers=(1, 8))
MACHINE = (Machine(Capacity(8, 0), {}, "m"),)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> list[Machine]:
    """The cluster's machines: first one with 8 CPUs."""
    found = list(MACHINE)
    monkeypatch.setattr(ledger_module, "all_machines", lambda: tuple(found))
    return found


@pytest.fixture
def ledger(machines: Sequence[Machine]) -> Ledger:
    """The ledger of a run of which two stages begin: one with 1 to 8 workers, one with 3."""
    ledger = Ledger("run")
    ledger.take("elastic", ELASTIC, {"m": 1})
    ledger.take("fixed", FIXED, {"m": 3})
    return ledger


def _grow(ledger: Ledger, stage: str = "elastic") -> int:
    """The number of workers that a stage with a range gets."""
    answer = ledger.ask(stage, ELASTIC, tuple(ELASTIC.worker_range), length_s=0)
    assert not isinstance(answer, str), answer
    return sum(answer.values())


def _free(ledger: Ledger) -> float:
    (machine,) = ledger.used(MACHINE)
    return machine.free.cpus


def test_stage_grows_into_free_capacity(ledger: Ledger) -> None:
    assert _grow(ledger) == 5
    assert _free(ledger) == 0


def test_attempt_uses_freed_and_joined_machines(ledger: Ledger, machines: list[Machine]) -> None:
    machines[0] = machines[0].using(Capacity(6, 0))
    assert _grow(ledger) == 1  # two CPUs are free, but the other stage needs three
    machines[0] = MACHINE[0]
    ledger.release("fixed")
    assert _grow(ledger) == 8
    machines.append(Machine(Capacity(2, 0), {}, "joined"))
    assert _grow(ledger) == 8
    ledger.take("fixed", FIXED, {"m": 3})
    assert _grow(ledger) == 7


def test_stage_shrinks_to_its_minimum_after_a_lost_machine(
    ledger: Ledger, machines: list[Machine]
) -> None:
    _grow(ledger)
    machines[0] = Machine(Capacity(2, 0), {}, "m")
    assert _grow(ledger) == 1
    assert _free(ledger) == 4


def test_stages_that_grow_together_share_the_capacity(machines: Sequence[Machine]) -> None:
    ledger = Ledger("run")
    stages = [f"stage{index}" for index in range(4)]
    for stage in stages:
        ledger.take(stage, ELASTIC, {"m": 1})
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda stage: _grow(ledger, stage), stages)) == 8


def test_search_keeps_what_it_reserved_for_its_trials(machines: Sequence[Machine]) -> None:
    ledger, trial = Ledger("run"), Resources(cpus_per_worker=2)
    ledger.take("search", trial, {"m": 3})
    assert ledger.ask("search", trial, (1,), length_s=0, num_groups=3) == {"m": 1}
    assert _free(ledger) == 2
    ledger.take("elastic", ELASTIC, {"m": 1})
    assert _grow(ledger) == 2
