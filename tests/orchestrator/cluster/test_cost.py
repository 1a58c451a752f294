"""The list of attempts in a manifest, and the hours that they cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.cost import (
    begin_attempt,
    closed_attempts,
    cost_of,
    cost_of_trials,
    earlier_attempts,
    end_attempt,
)
from orchestrator.contract import Event
from orchestrator.runs.record import StageEvent
from orchestrator.spec import Resources
from orchestrator.store import open_store
from orchestrator.store.trial_logs import TrialLog
from tests.orchestrator.runs.test_history import KEY, write_run

RESOURCES = Resources(workers=4, gpus_per_worker=2, cpus_per_worker=8)


@dataclass(frozen=True)
class Attempt:
    number: int = 1
    workers: int = 4
    provenance: dict[str, Any] = field(default_factory=lambda: {"run_id": "r"})
    resources: Resources = RESOURCES


def test_attempts_are_listed_with_begin_and_end() -> None:
    attempt: Any = Attempt()
    attempt = end_attempt(begin_attempt(attempt, 100.0), "its machine a is lost", 3700.0)
    attempt = begin_attempt(attempt, 4000.0)
    assert closed_attempts(attempt, "published", 7600.0) == [
        {
            "run_id": "r",
            "number": 1,
            "workers": 4,
            "began_at_s": began_at_s,
            "ended_at_s": ended_at_s,
            "end": end,
        }
        for began_at_s, ended_at_s, end in [
            (100.0, 3700.0, "its machine a is lost"),
            (4000.0, 7600.0, "published"),
        ]
    ]
    assert closed_attempts(Attempt(), "published", 0.0) == []  # type: ignore[arg-type]


def test_lost_attempts_count_in_the_cost() -> None:
    attempts: list[Any] = [
        {"workers": 4, "began_at_s": 0.0, "ended_at_s": 3600.0},
        {"workers": 2, "began_at_s": 3600.0, "ended_at_s": 5400.0},
        {"workers": None, "began_at_s": 9.0},
    ]
    assert cost_of(attempts, RESOURCES) == {
        "gpu_hours": pytest.approx(2 * (4 + 1)),
        "core_hours": pytest.approx(8 * (4 + 1)),
    }


def test_a_search_costs_what_its_trials_cost() -> None:
    logs = [
        TrialLog(number=number, params={}, drawn_after_s=0, elapsed_s=1800.0) for number in (1, 2)
    ]
    attempt: Any = Attempt(workers=3)
    assert cost_of_trials(logs, attempt) == {
        "gpu_hours": pytest.approx(2 * 3),
        "core_hours": pytest.approx(8 * 3),
    }


def test_attempts_of_earlier_runs_are_read_from_their_events(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    begin = StageEvent("train", 1, 10.0, Event("starting 4 workers"), workers=4)
    loss = StageEvent("train", 1, 40.0, Event("again"), lost="lost a worker")
    write_run(store, "one", begin, loss, StageEvent("train", 2, 50.0, Event("epoch 1")))
    attempts: Any = earlier_attempts(store, ["one", "no record"], KEY)
    assert [one["workers"] for one in attempts] == [4, None]
    assert [one["end"] for one in attempts] == ["lost a worker", "its run ended"]
    assert attempts[0]["ended_at_s"] - attempts[0]["began_at_s"] == 30.0
    assert earlier_attempts(store, [], KEY) == []
