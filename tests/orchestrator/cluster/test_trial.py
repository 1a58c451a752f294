"""What a trial takes, and how it begins and ends: what it notes and tells."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
from ray import tune

from orchestrator.cluster.suggest import NUMBER
from orchestrator.cluster.trial import _begin, _ending, _lasting, make_trainable
from orchestrator.contract import Event
from orchestrator.errors import StageError, StoreError
from orchestrator.spec import Resources
from orchestrator.store import open_store
from orchestrator.store.trials import TrialLog, load_log, save_log, trial_training
from orchestrator.trials import TrialState

TRAINING = trial_training("train/key", 1)


class Channel:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def is_stopping(self) -> bool:
        return False

    def send(self, text: str) -> None:
        self.texts.append(text)


def _says(event: Event) -> str:
    return event.text


@pytest.mark.parametrize(
    ("error", "state", "elapsed_s"),
    [(StageError("NaN"), TrialState.FAILED, 340.0), (StoreError("out of reach"), None, 300.0)],
)
def test_an_error_that_lasts_is_noted_with_all_the_time_that_the_trial_held(
    error: Exception, state: TrialState | None, elapsed_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, channel = open_store(str(tmp_path)), Channel()
    log = TrialLog(number=1, params={"lr": 0.1}, drawn_after_s=0.0, elapsed_s=300.0)
    save_log(store, TRAINING, log)
    trial: Any = SimpleNamespace(training=TRAINING, metric="top1", stage="search", says=_says)
    passed: Any = channel
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def train() -> None:
        with _ending(trial, store, passed, log):
            now[0] += 40
            raise error

    with pytest.raises(type(error)):
        train()
    noted = load_log(store, TRAINING)
    assert (noted.state, noted.elapsed_s) == (state, elapsed_s)
    assert channel.texts == ["trial lr=0.1: ended"]


class _WaitError(Exception):
    """In place of a wait without end."""


class Resting(Channel):
    """Of an interrupted run."""

    def is_stopping(self) -> bool:
        return True

    def rest(self, stage: str) -> None:
        self.texts.append(f"{stage} rests")


def _wait(_: threading.Event) -> None:
    raise _WaitError


def test_a_trial_of_an_interrupted_run_rests_and_notes_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, channel = open_store(str(tmp_path)), Resting()
    log = TrialLog(number=1, params={"lr": 0.1}, drawn_after_s=0.0)
    save_log(store, TRAINING, log)
    trial: Any = SimpleNamespace(training=TRAINING, metric="top1", stage="search", says=_says)
    passed: Any = channel
    monkeypatch.setattr(threading.Event, "wait", _wait)
    with pytest.raises(_WaitError), _ending(trial, store, passed, log):
        raise StageError("broken off")
    assert load_log(store, TRAINING) == log
    assert channel.texts[0] == "search rests"


def test_a_trial_that_would_meet_the_same_error_again_does_not_begin(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    log = TrialLog(number=1, params={}, drawn_after_s=0.0, state=TrialState.FAILED, error="NaN")
    save_log(store, TRAINING, log)
    search: Any = SimpleNamespace(training="train/key")
    with pytest.raises(StageError, match=r"^NaN$"):
        _begin(search, store, {NUMBER: 1})


def test_the_error_of_one_worker_of_a_group_is_the_trials() -> None:
    bug = StageError("a bug")
    assert _lasting(ray.train.WorkerGroupError("lost", {0: RuntimeError("gloo/transport"), 1: bug})) is bug
    assert _lasting(ray.train.WorkerGroupError("lost", {0: RuntimeError("gloo/transport")})) is None


@pytest.mark.parametrize(
    ("workers", "labels", "taken"),
    [
        (1, {}, {"CPU": 4.0, "GPU": 1.0, "memory": 2.0 * 2**30}),
        (2, {}, {"memory": 100.0 * 2**20}),
        (1, {"place": "spare"}, {"memory": 100.0 * 2**20}),
    ],
)
def test_a_driver_of_workers_takes_no_cpu_and_a_trial_in_its_own_process_what_a_worker_would(
    workers: int, labels: dict[str, str], taken: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "with_parameters", lambda trial, **_: partial(trial))
    resources = Resources(cpus_per_worker=4, gpus_per_worker=1, memory_gib_per_worker=2, labels=labels)
    attempt: Any = SimpleNamespace(resources=resources, workers=workers)
    trainable = make_trainable(attempt, None)  # type: ignore[arg-type]
    assert trainable._resources.required_resources == taken
