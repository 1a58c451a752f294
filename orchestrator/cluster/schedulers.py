"""Which trials Tune stops early. A search that is taken up again judges by all curves, of earlier
runs too."""

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
"""ASHA's max_t: a trial ends by itself, after the epochs that its params give it."""
NUM_BRACKETS = 3
"""Brackets of hyperband: each gives its trials `reduction_factor` times the grace period of the one
before."""


@dataclass(eq=False)
class _Past:
    """A trial of an earlier run, as schedulers know one."""

    trial_id: str
    config: Mapping[str, Any]


class _NoController:
    """What schedulers ask of Tune's loop, where none is running."""

    def get_live_trials(self) -> list[Any]:
        return []


class Remembering(TrialScheduler):  # type: ignore[misc]  # Ray's has no types
    """A scheduler that has seen the curves of earlier runs, in front of one of Ray's."""

    logs: dict[int, TrialLog]
    """By number. The past of a resumed trial is replayed once, though Tune adds a trial again when
    it lost it."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Begin a trial, with the reports that it made in earlier runs."""
        super().on_trial_add(tune_controller, trial)
        self._replay_past(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """What the trial is to do; one that has trained its whole budget may finish, and publish
        its model."""
        action: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if IS_LAST in result else action

    def remember(self, logs: Sequence[TrialLog]) -> None:
        """Take the curves of trials that ended, one after the other."""
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

    A trial's bracket follows from its number: at random, a search taken up again would judge it by
    others, and the same seed would not stop the same trials.
    """

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Begin a trial in its bracket: where Ray's draw puts it, with random numbers that nothing
        else draws."""
        super().on_trial_add(tune_controller, trial)
        brackets = self._brackets
        # As Ray weighs them: a bracket with more rungs takes more trials.
        weights = np.exp([float(len(bracket._rungs)) for bracket in brackets])
        drawn = np.random.RandomState(trial.config[NUMBER]).choice(
            len(brackets), p=weights / weights.sum()
        )
        self._trial_info[trial.trial_id] = brackets[drawn]


class Median(Remembering, MedianStoppingRule):  # type: ignore[misc]
    """Stops what is below the median of the others' averages."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Never a pause: Ray's lets each trial make room for those that wait, which starts its
        process again."""
        action: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if action == TrialScheduler.PAUSE else action

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Ignore a last result without an epoch, as a trial that trained to its end sends it:
        Ray's would fail on it.

        The last result of a stopped trial is known.
        """

    def _replay(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Without a decision: the scheduler must not hear more of a trial that it would have
        stopped."""
        super().on_trial_complete(tune_controller, trial, result)


def make_scheduler(params: TuneParams, metric: str, logs: Sequence[TrialLog]) -> TrialScheduler:
    """By each trial's own epochs, so that a resumed trial's values compare with the
    others'."""
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
