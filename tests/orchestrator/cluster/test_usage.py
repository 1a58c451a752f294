"""Notes of workers -> the facts of a manifest: hosts, machines, versions and energy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cluster import usage
from orchestrator.cluster.hardware import Hardware
from orchestrator.cluster.usage import WorkerId, metered, usage_facts

KWH_J = 3.6e6


def _hardware(host: str, *uuids: str, energy_j: float | None = None) -> Hardware:
    energy = dict.fromkeys(uuids, energy_j) if energy_j is not None else None
    gpus, nccl = dict.fromkeys(uuids, "H200"), "2.28.9" if uuids else None
    return Hardware(host, "EPYC", 16, 64.0, gpus, nccl=nccl, energy_j=energy)


def _rank(rank: int, attempt: int = 1) -> WorkerId:
    return WorkerId(attempt, "", attempt, rank)


def test_hosts_are_in_the_order_of_ranks() -> None:
    notes = {_rank(2): _hardware("a"), _rank(0): _hardware("b"), _rank(1): _hardware("a")}
    facts = usage_facts(notes, 1)
    assert facts["hosts"] == ["b", "a", "a"]
    machine = {"cpu": "EPYC", "cores": 16, "memory_gib": 64.0, "gpus": []}
    assert facts["machines"] == [{"host": "b", **machine}, {"host": "a", **machine}]
    assert "energy" not in facts
    assert "nccl" not in facts


def test_gpus_that_ranks_share_the_view_of_count_once() -> None:
    """Ray Train shows all GPUs of a group on a machine to each of its ranks."""
    notes = {
        _rank(0): _hardware("a", "u0", "u1", energy_j=KWH_J),
        _rank(1): _hardware("a", "u0", "u1", energy_j=KWH_J * 1.01),
        _rank(2): _hardware("b", "u2", energy_j=KWH_J),
    }
    facts: Any = usage_facts(notes, 1)
    assert [machine["gpus"] for machine in facts["machines"]] == [["H200", "H200"], ["H200"]]
    assert facts["nccl"] == "2.28.9"
    assert facts["energy"]["kwh"] == pytest.approx(3.02)
    assert (facts["energy"]["num_metered"], facts["energy"]["num_workers"]) == (3, 3)


def test_energy_of_a_lost_attempt_counts_as_far_as_it_is_known() -> None:
    notes = {
        _rank(0, 1): _hardware("a", "u0", energy_j=KWH_J),
        _rank(1, 1): _hardware("b", "u1"),  # killed with its machine
        _rank(0, 2): _hardware("a", "u0", energy_j=KWH_J),
    }
    facts: Any = usage_facts(notes, 2)
    assert facts["hosts"] == ["a"]
    assert facts["energy"] == {"kwh": pytest.approx(2.0), "num_metered": 2, "num_workers": 3}


def test_machines_of_a_search_are_those_of_all_its_trials() -> None:
    trials = {
        WorkerId(1, "00001", 1, 0): _hardware("b", "u0", energy_j=KWH_J),
        WorkerId(1, "00002", 1, 0): _hardware("a"),
        WorkerId(1, "00002", 2, 0): _hardware("a", "u0", energy_j=KWH_J),
    }
    facts: Any = usage_facts(trials, 1)
    assert facts["hosts"] == ["b", "a"]
    assert facts["energy"]["kwh"] == pytest.approx(2.0)
    assert usage_facts({}, 1) == {}


class Channel:
    def __init__(self, others: dict[WorkerId, Hardware]) -> None:
        self.noted = others

    def note(self, stage: str, worker: WorkerId, hardware: Hardware) -> None:
        self.noted[worker] = hardware

    def notes(self, stage: str) -> dict[WorkerId, Hardware]:
        return self.noted


def _metered(monkeypatch: pytest.MonkeyPatch, channel: Any, gpus_per_worker: float) -> Any:
    """The facts of rank 0 on a patched GPU that uses one kWh between two readings."""
    readings = iter(range(1, 10))
    monkeypatch.setattr(usage, "describe_machine", lambda *, uses_gpu: _hardware("a", "u0"))
    monkeypatch.setattr(
        usage, "read_energy_j", lambda uuids: dict.fromkeys(uuids, next(readings) * KWH_J)
    )
    resources = SimpleNamespace(gpus_per_worker=gpus_per_worker)
    attempt: Any = SimpleNamespace(
        number=1, trial=None, log_number=1, stage="only", resources=resources
    )
    with metered(attempt, channel, rank=0, world_size=2, device="cuda:0") as facts:
        return facts()


def test_a_worker_notes_the_energy_between_begin_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel({_rank(1): _hardware("b", "u1", energy_j=KWH_J)})
    facts = _metered(monkeypatch, channel, gpus_per_worker=1)
    assert facts["hosts"] == ["a", "b"]
    assert facts["energy"] == {"kwh": pytest.approx(2.0), "num_metered": 2, "num_workers": 2}


def test_energy_of_a_shared_gpu_belongs_to_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel({_rank(1): _hardware("b")})
    assert "energy" not in _metered(monkeypatch, channel, gpus_per_worker=0.5)


def test_rank_0_does_not_wait_forever_for_a_lost_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "WAIT_S", 0.2)
    facts = _metered(monkeypatch, Channel({_rank(1): _hardware("b", "u1")}), gpus_per_worker=1)
    assert facts["energy"] == {"kwh": pytest.approx(1.0), "num_metered": 1, "num_workers": 2}
