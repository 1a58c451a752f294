"""Decide which trials Tune stops early. A resumed search also uses the curves of earlier runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from orchestrator.cluster.suggest import NUMBER
from orchestrator.cluster.trial_log import IS_LAST
from orchestrator.spec import TuneParams
from orchestrator.store.trial_logs import TrialLog

NO_LIMIT = 10**9
"""ASHA's max_t: practically none, because a trial ends after the epochs in its params."""
NUM_BRACKETS = 3
"""Brackets of hyperband: each gives its trials `reduction_factor` times the grace period of the one
before."""


@dataclass(eq=False)
class _Past:
    """A trial of an earlier run, with the attributes that schedulers read."""

    trial_id: str
    config: Mapping[str, Any]


class _NoController:
    """A replacement for Tune's controller while none is running."""

    def get_live_trials(self) -> list[Any]:
        return []


class Remembering(TrialScheduler):  # type: ignore[misc]  # Ray's has no types
    """A mixin for Ray's schedulers that replays the curves of earlier runs."""

    logs: dict[int, TrialLog]
    """Logs that are not replayed yet, by number. A resumed trial is replayed only once, although
    Tune adds a trial again after losing it."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a trial and replay its reports of earlier runs."""
        super().on_trial_add(tune_controller, trial)
        self._replay_past(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return the action for the trial. A trial after its last epoch may finish and publish its
        model."""
        action: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if IS_LAST in result else action

    def remember(self, logs: Sequence[TrialLog]) -> None:
        """Replay the curves of trials that ended, one after the other."""
        self.logs = {log.number: log for log in logs}
        for log in logs:
            if log.state is not None and log.curve:
                past = _Past(f"past-{log.number}", {NUMBER: log.number})
                self.on_trial_add(_NoController(), past)
                self.on_trial_remove(_NoController(), past)

    def _replay_past(self, tune_controller: Any, trial: Any) -> None:
        log = self.logs.pop(trial.config[NUMBER], None)
        for point in log.curve if log else ():
            if point.value is not None:
                self._replay(
                    tune_controller, trial, {"epoch": point.epoch, self.metric: point.value}
                )

    def _replay(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.on_trial_result(tune_controller, trial, result)


class Asha(Remembering, AsyncHyperBandScheduler):  # type: ignore[misc]
    """Asynchronous successive halving, in one bracket or several.

    A trial's bracket depends only on its number. If it were random, a resumed search could put the
    trial into another bracket, and the same seed would not stop the same trials.
    """

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a trial to its bracket, drawn as Ray does but seeded with the trial's number."""
        super().on_trial_add(tune_controller, trial)
        brackets = self._brackets
        # Ray's weights: a bracket with more rungs gets more trials.
        weights = np.exp([float(len(bracket._rungs)) for bracket in brackets])
        drawn = np.random.RandomState(trial.config[NUMBER]).choice(
            len(brackets), p=weights / weights.sum()
        )
        self._trial_info[trial.trial_id] = brackets[drawn]


class Median(Remembering, MedianStoppingRule):  # type: ignore[misc]
    """Stops trials below the median of the others' averages."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return the action for the trial, but never a pause.

        Ray's rule pauses a trial to let a waiting one run, and a paused trial has to start a new
        process.
        """
        action: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if action == TrialScheduler.PAUSE else action

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Ignore the last result.

        A trial that trained to its end sends one without an epoch, on which Ray's rule fails. The
        last result of a stopped trial is already known.
        """

    def _replay(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Add a result without a decision: the scheduler refuses results of a trial that it would
        have stopped."""
        super().on_trial_complete(tune_controller, trial, result)


def make_scheduler(params: TuneParams, metric: str, logs: Sequence[TrialLog]) -> TrialScheduler:
    """Return the scheduler of a search, after replaying `logs`.

    It counts each trial's own epochs, so that a resumed trial is comparable with the others.
    """
    wanted = params.scheduler
    if wanted.name == "none":
        return FIFOScheduler()
    scheduler: Remembering
    common = {
        "time_attr": "epoch",
        "metric": metric,
        "mode": params.mode,
        "grace_period": wanted.grace_period,
    }
    if wanted.name == "median":
        scheduler = Median(**common)
    else:
        brackets = NUM_BRACKETS if wanted.name == "hyperband" else 1
        scheduler = Asha(
            **common, max_t=NO_LIMIT, reduction_factor=wanted.reduction_factor, brackets=brackets
        )
    scheduler.remember(logs)
    return scheduler
