"""A stage waits for machines, and its workers start on those."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.capacity import Capacity, Machine
from orchestrator.cluster import ledger, placement
from orchestrator.cluster.autoscaler import Answer
from orchestrator.cluster.ledger import Ledger
from orchestrator.cluster.placement import Room, pinned_selectors, roaming_selector
from orchestrator.contract import Event
from orchestrator.errors import ClusterError
from orchestrator.fleet import Placement
from orchestrator.spec import Resources

MACHINE = (Machine(Capacity(8, 0), {}, "m"),)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> list[Machine]:
    """The cluster's machines: first one with 8 CPUs."""
    found = list(MACHINE)
    for module in (ledger, placement):
        monkeypatch.setattr(module, "all_machines", lambda: tuple(found))
    return found


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
def growing() -> Ledger:
    """The ledger of a run on a cluster that can grow."""
    return Ledger("run", can_grow=True)


@pytest.fixture
def wait(
    machines: list[Machine], growing: Ledger, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Placement, list[str]]]:
    """Waits for a machine with GPUs, which joins after the last answer of the autoscaler."""

    def wait(
        answers: Sequence[Answer], gpus: float = 1, counts: tuple[int, ...] = (1,)
    ) -> tuple[Placement, list[str]]:
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
        room = Room("gpu", resources, counts, growing, listener)
        listener.stage = "gpu"
        return room.take(listener), listener.texts

    return wait


def test_stage_waits_for_a_machine_that_the_autoscaler_starts(wait: Any) -> None:
    found, texts = wait([Answer.STARTING] * 2)
    assert found == {"joined": 1}
    assert texts == [
        "waiting for resources: needs 1 worker with 1 CPU, 1 GPU, but the cluster has "
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


def test_group_without_gpus_grows_on_the_machine_with_gpus_that_was_started_for_it(
    wait: Any, machines: list[Machine]
) -> None:
    machines[0] = machines[0].using(Capacity(8, 0))
    placed = [Answer.STARTING, Answer.PLACED]
    assert wait(placed, gpus=0, counts=(1, 2, 16))[0] == {"joined": 2}


def test_group_that_the_autoscaler_can_never_hold_fails_at_once(wait: Any) -> None:
    with pytest.raises(ClusterError, match=r"^gpu: needs 1 worker .* raise the limits of the clu"):
        wait([Answer.UNKNOWN, Answer.IMPOSSIBLE])


def test_time_in_which_other_stages_of_the_run_use_the_limit_does_not_count(
    wait: Any, growing: Ledger
) -> None:
    with pytest.raises(ClusterError, match=r"^waited 90 minutes for resources: "):
        wait([Answer.FULL] * 4)
    growing.ask("other", Resources(), (1,), length_s=0)
    assert wait([Answer.FULL] * 4)[0] == {"joined": 1}
