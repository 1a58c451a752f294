"""The list of attempts in a manifest, and the hours that they cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
    note_attempts,
)
from orchestrator.errors import StoreError
from orchestrator.spec import Resources
from orchestrator.store import Store, open_store
from orchestrator.store.attempts import note_run, runs_of
from orchestrator.store.stage_logs import DEFAULT_LOGS, LogSettings
from orchestrator.store.training import Training
from orchestrator.store.trial_logs import TrialLog
from tests.orchestrator.runs.test_history import write_run

TRAINING = Training("train/key", 1)
EARLIER = {"run_id": "earlier", "number": 1, "workers": 4, "began_at_s": 0.0}
RESOURCES = Resources(workers=4, gpus_per_worker=2, cpus_per_worker=8)


@dataclass(frozen=True)
class Attempt:
    number: int = 1
    workers: int = 4
    provenance: dict[str, Any] = field(default_factory=lambda: {"run_id": "r"})
    resources: Resources = RESOURCES
    training: Training = TRAINING
    logs: LogSettings = DEFAULT_LOGS


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


def test_end_of_an_attempt_has_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_URL", "https://chat.example/room/1")
    logs = LogSettings(secret_names=frozenset({"CHAT_URL"}))
    attempt: Any = begin_attempt(Attempt(logs=logs), 0.0)  # type: ignore[arg-type]
    why = "no answer from https://chat.example/room/1 and https://b.example/k?X-Amz-"
    attempt = end_attempt(attempt, why + "Signature=0123456789abcdef", 9.0)
    (ended,) = attempt.provenance["attempts"]
    assert ended["end"] == "no answer from *** and https://b.example/k***"


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


def _note(store: Store, run_id: str, *ends: str | None) -> None:
    """Note attempts of a run as its driver does, and `None` for one that was killed."""
    attempt: Any = Attempt(provenance={"run_id": run_id, "attempts": [EARLIER]})
    for number, end in enumerate(ends, start=1):
        attempt = begin_attempt(replace(attempt, number=number), 10.0 * number)
        note_attempts(store, attempt)
        if end is not None:
            attempt = end_attempt(attempt, end, 10.0 * number + 5)
            note_attempts(store, attempt)


def test_attempts_of_earlier_runs_are_read_with_one_object_per_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    _note(store, "one", "lost a worker", "published")
    note_run(store, TRAINING.folder, "two")
    read, content_of = [], store.read

    def observed(name: str) -> bytes | None:
        read.append(name)
        return content_of(name)

    monkeypatch.setattr(store, "read", observed)
    attempts: Any = earlier_attempts(store, TRAINING.folder, ["one", "two"])
    assert [(one["number"], one["end"]) for one in attempts] == [
        (1, "lost a worker"),
        (2, "published"),
    ]
    assert attempts[0]["ended_at_s"] - attempts[0]["began_at_s"] == 5.0
    assert read == ["train/key/runs/one", "train/key/runs/two"]


def test_attempt_of_a_killed_run_ended_when_its_driver_was_last_heard(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    write_run(store, "killed")  # last heard at 100 s
    _note(store, "killed", None)
    _note(store, "no record", None)
    attempts: Any = earlier_attempts(store, TRAINING.folder, ["killed", "no record"])
    assert [one["end"] for one in attempts] == ["its run ended"] * 2
    assert [one.get("ended_at_s") for one in attempts] == [100.0, None]
    assert cost_of(attempts, RESOURCES)["gpu_hours"] == pytest.approx(90 / 3600 * 4 * 2)


def test_attempts_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    _note(store, "whole", "published")
    for run_id, content in (("damaged", b"[{"), ("older version", b"")):
        store.write(f"{TRAINING.folder}/runs/{run_id}", content)
    runs = runs_of(store, TRAINING.folder)
    assert runs == ("damaged", "older version", "whole")
    assert len(earlier_attempts(store, TRAINING.folder, runs)) == 1


def test_notes_that_cannot_be_written_do_not_fail_the_stage(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("not a folder")
    store = open_store(str(tmp_path))
    with pytest.raises(StoreError):
        note_run(store, TRAINING.folder, "one")
    _note(store, "one", "lost a worker")
