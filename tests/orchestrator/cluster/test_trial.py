"""The resources of a trial, how it begins and ends, and what it records and reports."""

from __future__ import annotations

import threading
import time
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune

from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.failures import MAX_ATTEMPTS, LostAttempt, LostAttemptError
from orchestrator.cluster.suggest import MACHINE_ERROR, NUMBER
from orchestrator.cluster.trial import _trial, make_trainable
from orchestrator.errors import MachineError, StageError, StoppedError, StoreError
from orchestrator.monitoring.tally import Amounts
from orchestrator.runs.record import StageEvent, record_name
from orchestrator.spec import Resources
from orchestrator.store import open_store
from orchestrator.store.stage_logs import DEFAULT_LOGS
from orchestrator.store.training import Training
from orchestrator.store.trial_logs import TrialLog, Tries, load_log, save_log, trial_training
from orchestrator.trials import TrialState

SEARCH = Training("train/key", 1)
TRAINING = trial_training(SEARCH, 1)


class Channel:
    def __init__(self) -> None:
        self.texts: list[str] = []
        self.amounts: list[Amounts] = []

    def is_stopping(self, stage: str, timeout_s: float = 5) -> bool:
        return False

    def is_interrupted(self, timeout_s: float = 5) -> bool:
        return False

    def send(self, heard: StageEvent) -> None:
        self.texts.append(heard.event.text)

    def count(self, amounts: Amounts) -> None:
        self.amounts.append(amounts)


class Params:
    """Accepts any searched values."""

    def overlay(self, values: dict[str, Any]) -> dict[str, Any]:
        return values


@pytest.fixture
def search(tmp_path: Path) -> Attempt:
    """A search with one trial that ran for 300 s in an earlier run."""
    open_store(str(tmp_path)).write(record_name("now"), b"{}")
    save_log(
        open_store(str(tmp_path)),
        TRAINING,
        TrialLog(number=1, params={"lr": 0.1}, drawn_after_s=0, elapsed_s=300),
    )
    values: dict[str, Any] = dict.fromkeys(field.name for field in fields(Attempt))
    own: dict[str, Any] = {
        "logs": DEFAULT_LOGS,
        "stage": "search",
        "number": 1,
        "training": SEARCH,
        "metric": "top1",
        "params": Params(),
        "reads": lambda _: {},
        "resources": Resources(),
        "store_uri": str(tmp_path),
        "provenance": {"run_id": "now"},
    }
    return Attempt(**{**values, **own})


def _log(search: Attempt) -> TrialLog:
    return load_log(open_store(search.store_uri), TRAINING)


def _train(search: Attempt, channel: Any, error: BaseException | None) -> bool:
    """Run the trial, which raises `error`. Returns whether it was begun."""
    with _trial(search, {NUMBER: 1}, channel) as begun:
        if begun is not None and error is not None:
            raise error
    return begun is not None


@pytest.mark.parametrize(
    "error",
    [
        StageError("NaN"),
        LostAttemptError(LostAttempt({0: RuntimeError("gloo/transport"), 1: StageError("NaN")})),
    ],
)
def test_lasting_error_ends_the_trial_with_its_time(
    error: Exception, search: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Channel()
    times = iter([1000.0, 1040.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(times, 1040.0))
    assert _train(search, channel, error)
    log = _log(search)
    assert log.state == TrialState.FAILED
    assert log.error == "NaN"
    assert log.elapsed_s == 340
    assert channel.texts == ["trial lr=0.1: starting", "trial lr=0.1: ended"]


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The reports of trials to Tune."""
    reports: list[dict[str, str]] = []
    monkeypatch.setattr(tune, "report", reports.append)
    return reports


def test_trial_without_the_store_ends_the_search(
    search: Attempt, reported: list[dict[str, str]]
) -> None:
    open_store(search.store_uri).delete(record_name("now"))
    before = _log(search)
    assert not _train(search, Channel(), None)
    assert "is not the store of the driver" in reported[0][MACHINE_ERROR]
    assert _log(search) == before


def test_full_machine_leaves_the_trial_to_another_run(
    search: Attempt, reported: list[dict[str, str]]
) -> None:
    lost = LostAttemptError(
        LostAttempt({0: RuntimeError("gloo/transport"), 1: MachineError("no room")})
    )
    assert _train(search, Channel(), lost)
    assert reported == [{MACHINE_ERROR: "no room"}]
    assert _log(search).state is None
    assert _log(search).error is None


def test_trial_has_as_many_attempts_as_a_stage(search: Attempt) -> None:
    channel, error = Channel(), StoreError("out of reach")
    for _ in range(MAX_ATTEMPTS - 1):
        with pytest.raises(StoreError):
            _train(search, channel, error)
        assert (
            channel.texts[-1]
            == "trial lr=0.1: lost worker 0: out of reach; resuming from its last checkpoint"
        )
    assert _train(search, channel, error)
    assert channel.texts[-1] == "trial lr=0.1: ended"
    log = _log(search)
    assert log.state is None
    assert log.error == "out of reach"
    open_store(search.store_uri).write(record_name("next"), b"{}")
    with pytest.raises(StoreError):
        _train(replace(search, provenance={"run_id": "next"}), channel, error)


def test_lost_attempts_of_a_trial_are_counted_once(search: Attempt) -> None:
    channel = Channel()
    for _ in range(MAX_ATTEMPTS - 1):
        with pytest.raises(StoreError):
            _train(search, channel, StoreError("out of reach"))
    assert _train(search, channel, StoreError("out of reach"))
    assert sum(amounts.lost_attempts for amounts in channel.amounts) == MAX_ATTEMPTS
    assert sum(amounts.retries for amounts in channel.amounts) == MAX_ATTEMPTS - 1


def test_trial_that_is_always_killed_is_given_up(search: Attempt) -> None:
    channel, store = Channel(), open_store(search.store_uri)
    killed = Tries(run_id="now", num_begun=MAX_ATTEMPTS)
    save_log(store, TRAINING, _log(search).model_copy(update={"tries": killed}))
    assert not _train(search, channel, None)
    assert channel.texts == [
        "trial lr=0.1: lost its process in each of 3 attempts; the next run resumes it"
    ]
    assert _log(search).state is None
    assert _log(search).error == f"lost its process in each of {MAX_ATTEMPTS} attempts"


def test_leaving_machine_costs_a_trial_no_attempt(search: Attempt) -> None:
    for moves in range(1, 2 * MAX_ATTEMPTS):
        with pytest.raises(StoppedError):
            _train(search, Channel(), StoppedError("a machine is leaving"))
        assert _log(search).tries == Tries(run_id="now", num_begun=moves, num_moves=moves)
    assert _train(search, Channel(), None)


class _WaitError(Exception):
    """Raised instead of waiting forever."""


class Resting(Channel):
    """The channel of an interrupted run."""

    def is_interrupted(self, timeout_s: float = 5) -> bool:
        return True

    def rest(self, stage: str) -> None:
        self.texts.append(f"{stage} rests")


def _wait(_: threading.Event) -> None:
    raise _WaitError


def test_trial_of_an_interrupted_run_records_no_failure(
    search: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Resting()
    monkeypatch.setattr(threading.Event, "wait", _wait)
    with pytest.raises(_WaitError):
        _train(search, channel, StageError("broken off"))
    assert _log(search).state is None
    assert _log(search).error is None
    assert channel.texts[1] == "search rests"


@pytest.mark.parametrize(
    ("workers", "labels", "taken"),
    [
        (1, {}, {"CPU": 4.0, "GPU": 1.0, "memory": 2.0 * 2**30}),
        (2, {}, {"memory": 100.0 * 2**20}),
        (1, {"place": "spare"}, {"CPU": 4.0, "GPU": 1.0, "memory": 2.0 * 2**30}),
    ],
)
def test_trial_requests_the_resources_of_its_workers(
    workers: int, labels: dict[str, str], taken: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "with_parameters", lambda trial, **_: partial(trial))
    resources = Resources(cpus_per_worker=4, gpus_per_worker=1, memory_gib_per_worker=2)
    attempt: Any = SimpleNamespace(
        resources=resources,
        selectors=(labels,) * workers,
        needs_group=workers > 1,
        ray_name="job.search-01234567",
    )
    trainable = make_trainable(attempt, None)  # type: ignore[arg-type]
    assert trainable._resources.required_resources == taken
