"""The stages of a run reserve machines, and no two of them the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.capacity import Capacity, Machine
from orchestrator.cluster import placement
from orchestrator.cluster.autoscaler import Answer
from orchestrator.cluster.placement import Ledger, Room, pinned_selectors, roaming_selector
from orchestrator.contract import Event
from orchestrator.errors import ClusterError
from orchestrator.fleet import Placement
from orchestrator.spec import Resources

FIXED = Resources(workers=3)
ELASTIC = Resources(workers=(1, 8))
MACHINE = (Machine(Capacity(8, 0), {}, "m"),)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> list[Machine]:
    """The cluster's machines: first one with 8 CPUs."""
    found = list(MACHINE)
    monkeypatch.setattr(placement, "all_machines", lambda: tuple(found))
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


def test_each_worker_starts_on_the_machine_where_it_was_admitted() -> None:
    resources = Resources(workers=3, labels={"zone": "a"})
    assert pinned_selectors(resources, {"m": 2, "n": 1}) == (
        {"zone": "a", "ray.io/node-id": "m"},
        {"zone": "a", "ray.io/node-id": "m"},
        {"zone": "a", "ray.io/node-id": "n"},
    )


def test_trials_without_gpus_may_run_on_all_machines_without_gpus() -> None:
    gpus = (Machine(Capacity(8, 4), {}, "g"), Machine(Capacity(8, 8), {}, "h"))
    machines = (*gpus, *MACHINE, Machine(Capacity(8, 0), {}, "n"))
    plain = Resources(workers=1, labels={"zone": "a"})
    labelled = tuple(Machine(one.capacity, {"zone": "a"}, one.name) for one in machines)
    assert roaming_selector(plain, labelled, num_workers=1) == {
        "zone": "a",
        "ray.io/node-id": "!in(g,h)",
    }
    assert roaming_selector(plain, labelled[:2], num_workers=1) == {"zone": "a"}
    assert roaming_selector(plain, labelled[:3], num_workers=1) == {"zone": "a"}
    assert roaming_selector(Resources(gpus_per_worker=1), machines, num_workers=1) == {}


@dataclass
class Autoscaler:
    """Answers as the autoscaler does, and lets an hour pass with each answer."""

    answers: list[Answer]
    now_s: float = 0

    def ask(self) -> Answer:
        return self.answers.pop(0)

    def sleep(self, _: float) -> None:
        self.now_s += 3600


class Listener:
    """Has what a stage reports while it waits."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def says(self, event: Event, *, waits_for: str) -> str:
        return event.text

    def send(self, text: str) -> None:
        self.texts.append(text)

    def is_stopping(self, stage: str) -> bool:
        return False


@pytest.fixture
def wait(
    machines: list[Machine], ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Placement, list[str]]]:
    """Waits for a machine with GPUs, which joins after the last answer of the autoscaler."""

    def wait(answers: Sequence[Answer], gpus: float = 1) -> tuple[Placement, list[str]]:
        autoscaler = Autoscaler(list(answers))

        def sleep(seconds: float) -> None:
            autoscaler.sleep(seconds)
            if not autoscaler.answers:
                machines.append(Machine(Capacity(8, 8), {}, "joined"))

        clock = SimpleNamespace(monotonic=lambda: autoscaler.now_s, sleep=sleep)
        monkeypatch.setattr(placement, "time", clock)
        monkeypatch.setattr(placement, "asked_for", lambda *_, **__: nullcontext(autoscaler))
        listener: Any = Listener()
        resources = Resources(gpus_per_worker=gpus, max_wait_min=90)
        room = Room("gpu", resources, (1,), replace(ledger, can_grow=True), listener)
        listener.stage = "gpu"
        return room.take(listener), listener.texts

    return wait


def test_stage_waits_for_a_machine_that_the_autoscaler_starts(wait: Any) -> None:
    found, texts = wait([Answer.STARTING] * 2)
    assert found == {"joined": 1}
    assert texts == [
        "waiting for resources: needs 1 workers with 1 CPUs, 1 GPUs each, but the cluster has "
        "8 CPUs, 0 GPUs, where 0 of them fit now; autoscaler: it starts machines for the group"
    ]


def test_stage_without_gpus_uses_a_machine_with_gpus_only_if_it_was_started_for_it(
    wait: Any, machines: list[Machine]
) -> None:
    machines[0] = machines[0].using(Capacity(8, 0))
    assert wait([Answer.STARTING, Answer.PLACED], gpus=0)[0] == {"joined": 1}
    machines.pop()
    with pytest.raises(ClusterError, match=r"^waited 90 minutes for resources: "):
        wait([Answer.STARTING] * 4, gpus=0)


def test_group_that_the_autoscaler_can_never_hold_fails_at_once(wait: Any) -> None:
    with pytest.raises(ClusterError, match=r"^gpu: needs 1 workers .* raise the limits of the clu"):
        wait([Answer.UNKNOWN, Answer.IMPOSSIBLE])


def test_time_in_which_other_stages_of_the_run_use_the_limit_does_not_count(
    wait: Any, ledger: Ledger
) -> None:
    with pytest.raises(ClusterError, match=r"^waited 90 minutes for resources: "):
        wait([Answer.FULL] * 4)
    _grow(ledger)
    assert wait([Answer.FULL] * 4)[0] == {"joined": 1}
