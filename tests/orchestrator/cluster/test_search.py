"""What a search reports when it begins and when no trial succeeds."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune

from orchestrator.cluster.connection import connected
from orchestrator.cluster.search import _beginning, _failure, _run, _trials, _WaitingTrials
from orchestrator.errors import JobError, OrchestratorError, StageError, StoreError
from orchestrator.spec import Resources, TuneParams
from orchestrator.store.stage_logs import LogSettings
from orchestrator.store.training import Training
from orchestrator.store.trial_logs import TrialLog
from orchestrator.trials import Trials, TrialState


def _params(**fields: Any) -> TuneParams:
    return TuneParams.model_validate(
        {"of": "x", "space": {"lr": {"uniform": (0.0, 1.0)}}, "num_trials": 2, **fields}
    )


def _log(number: int, **fields: Any) -> TrialLog:
    return TrialLog(number=number, params={"lr": 0.1}, drawn_after_s=0.0, **fields)


FAILED = {"state": TrialState.FAILED, "error": "bad"}


def test_error_of_a_lost_trial_is_published_without_its_secrets() -> None:
    attempt: Any = SimpleNamespace(workers=1, resources=Resources(), logs=LogSettings())
    lost = "no answer from https://b.example/k?X-Amz-" + "Signature=0123456789abcdef"
    (trial,) = _trials(attempt, [_log(1)], {1: lost})
    assert trial.state is TrialState.FAILED
    assert trial.error == "no answer from https://b.example/k***"


@pytest.mark.parametrize(("mode", "best"), [("max", 3.0), ("min", 1.0)])
def test_resumed_search_reports_the_best_value_so_far(mode: str, best: float) -> None:
    logs = [
        _log(number, state=TrialState.FINISHED, value=value)
        for number, value in enumerate((3.0, 1.0, 2.0), 1)
    ]
    event = _beginning([*logs, _log(4)], _params(mode=mode, num_trials=9), "top1", slots=2)
    assert event.metrics == {"top1": best}
    assert event.done == 3
    assert event.total == 9


@pytest.mark.parametrize(
    ("logs", "kind", "text"),
    [
        (
            [{**FAILED, "blames_job": True}] * 2,
            JobError,
            "2 failed, the first with: bad; fix the job, or repeat",
        ),
        (
            [{**FAILED, "blames_job": True}, FAILED],
            StageError,
            "2 failed, the first with: bad; fix the job, or repeat",
        ),
        (
            [FAILED, {}],
            StageError,
            "2 failed, the first with: bad; run again to resume the lost trials",
        ),
        ([{"state": TrialState.STOPPED}], StageError, "none reported it; fix the job, or repeat"),
    ],
)
def test_search_without_a_value_reports_what_to_do(
    logs: list[dict[str, Any]], kind: type[OrchestratorError], text: str
) -> None:
    made = [_log(number, **fields) for number, fields in enumerate(logs, 1)]
    trials = tuple(log.trial(gpus=0, cpus=1, error=None if log.state else "gone") for log in made)
    error = _failure("search", Trials(metric="top1", mode="max", trials=trials), made)
    assert type(error) is kind
    assert text in str(error)


class Tuner:
    """Runs one trial; at its end the store is unreachable."""

    def __init__(self, _: Any, *, tune_config: tune.TuneConfig, run_config: tune.RunConfig) -> None:
        assert tune_config.search_alg is not None
        self._suggestions: Any = tune_config.search_alg

    def fit(self) -> list[Any]:
        self._suggestions.suggest("a")
        self._suggestions._store = SimpleNamespace(read=_out_of_reach)
        self._suggestions.on_trial_complete("a", {})
        return []


def _out_of_reach(_: str) -> bytes:
    raise StoreError("out of reach")


@pytest.fixture
def attempt(tmp_path: Path) -> Any:
    return SimpleNamespace(
        store_uri=str(tmp_path),
        stage="search",
        training=Training("train/key", 1),
        ray_name="job.search-kkkkkkkk",
        seed=0,
        workers=1,
        resources=Resources(),
    )


def test_search_ends_with_the_error_of_its_store(
    attempt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "Tuner", Tuner)
    monkeypatch.setattr("orchestrator.cluster.search.make_trainable", lambda *_: None)
    channel: Any = SimpleNamespace(is_stopping=lambda stage: False)
    with pytest.raises(StoreError, match="out of reach"):
        _run(attempt, _params(), "top1", [], slots=1, channel=channel, storage=tmp_path / "ray")


def test_search_whose_trials_have_all_ended_starts_none(
    attempt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(tune, "Tuner")
    channel: Any = SimpleNamespace(is_stopping=lambda stage: False)
    logs = [_log(1, **FAILED), _log(2, **FAILED)]
    storage = tmp_path / "ray"
    assert _run(attempt, _params(), "top1", logs, slots=1, channel=channel, storage=storage) == {}


def test_trials_that_wait_for_resources_end_with_a_cancelled_search(
    cluster_address: str, tmp_path: Path
) -> None:
    is_stopping = threading.Event()
    waiting = _WaitingTrials(is_stopping.is_set)
    with connected(cluster_address):
        tuner = tune.Tuner(
            tune.with_resources(lambda config: None, {"cpu": 1000}),
            run_config=tune.RunConfig(
                name="waits",
                storage_path=str(tmp_path),
                verbose=0,
                stop=waiting,
                callbacks=[waiting],
            ),
        )
        ended: list[Any] = []
        search = threading.Thread(target=lambda: ended.extend(tuner.fit()), daemon=True)
        search.start()
        search.join(3)
        assert search.is_alive()
        is_stopping.set()
        search.join(300)
    assert [result.error for result in ended] == [None]
