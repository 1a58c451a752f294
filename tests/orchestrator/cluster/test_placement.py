"""No two stages of a run reserve the same capacity, for any number of workers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.capacity import Capacity
from orchestrator.cluster.placement import Ledger

WORKER = Capacity(1, 0)
TOTAL = Capacity(8, 0)


@pytest.fixture
def ledger() -> Ledger:
    """The ledger of a cluster with 8 CPUs. Two stages begin: one with 1 of 1 to 8 workers, one
    with 3."""
    ledger = Ledger(TOTAL)
    ledger.take("elastic", WORKER)
    ledger.take("fixed", WORKER * 3)
    return ledger


def _resize(ledger: Ledger, stage: str, *, slots: int = 8, total: Capacity = TOTAL) -> int:
    return ledger.resize(stage, range(1, 9), WORKER, slots=slots, total=total)


def test_stage_grows_into_free_capacity(ledger: Ledger) -> None:
    assert _resize(ledger, "elastic") == 5
    assert ledger.free == Capacity(0, 0)


def test_attempt_uses_freed_and_joined_machines(ledger: Ledger) -> None:
    assert _resize(ledger, "elastic", slots=2) == 2
    ledger.release("fixed")
    assert _resize(ledger, "elastic") == 8
    ledger.take("fixed", WORKER * 3)
    assert _resize(ledger, "elastic", total=Capacity(10, 0)) == 7


def test_stage_shrinks_to_its_minimum_after_a_lost_machine(ledger: Ledger) -> None:
    _resize(ledger, "elastic")
    assert _resize(ledger, "elastic", slots=2) == 2
    assert ledger.free == Capacity(3, 0)
    assert _resize(ledger, "elastic", total=Capacity(2, 0)) == 1


def test_stages_that_grow_together_share_the_capacity() -> None:
    ledger = Ledger(TOTAL)
    stages = [f"stage{index}" for index in range(4)]
    for stage in stages:
        ledger.take(stage, WORKER)
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda stage: _resize(ledger, stage), stages)) == 8
