"""How a trial ends: what it notes and tells."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cluster.trial import _ending
from orchestrator.contract import Event
from orchestrator.errors import StageError, StoreError
from orchestrator.store import open_store
from orchestrator.store.trials import TrialLog, load_trial, save_trial, trial_training
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
    save_trial(store, TRAINING, log)
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
    noted = load_trial(store, TRAINING)
    assert (noted.state, noted.elapsed_s) == (state, elapsed_s)
    assert channel.texts == ["trial lr=0.1: ended"]
