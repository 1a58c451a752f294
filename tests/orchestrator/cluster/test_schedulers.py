"""Which trials are stopped early, including by the curves of earlier runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import TrialScheduler

from orchestrator.cluster.schedulers import make_scheduler
from orchestrator.cluster.trial_log import IS_LAST
from orchestrator.spec import TuneParams
from orchestrator.store.trial_logs import TrialLog
from orchestrator.trials import Point, TrialState


@dataclass(eq=False)
class Trial:
    """The attributes of Tune's trials that schedulers read."""

    trial_id: str
    config: dict[str, Any] = field(default_factory=dict)
    status: str = "PENDING"


class Controller:
    """Tune's controller, with a waiting trial."""

    def get_live_trials(self) -> list[Any]:
        return [Trial("waiting")]


def _log(
    number: int, values: list[float], state: TrialState | None = TrialState.FINISHED
) -> TrialLog:
    curve = tuple(
        Point(epoch=epoch, value=value, elapsed_s=1.0) for epoch, value in enumerate(values, 1)
    )
    return TrialLog(number=number, params={}, drawn_after_s=0.0, state=state, curve=curve)


def _scheduler(
    logs: list[TrialLog], name: str, mode: str = "max", *, grace: int = 2, factor: int = 2
) -> Any:
    params = TuneParams.model_validate(
        {
            "of": "x",
            "space": {"lr": {"choice": (1,)}},
            "num_trials": 9,
            "mode": mode,
            "scheduler": {"name": name, "grace_period": grace, "reduction_factor": factor},
        }
    )
    return make_scheduler(params, "top1", logs)


def _actions(scheduler: Any, number: int, values: dict[int, float]) -> list[str]:
    """The action for a trial after each epoch."""
    trial = Trial(f"trial{number}", {"number": number})
    scheduler.on_trial_add(Controller(), trial)
    return [
        scheduler.on_trial_result(Controller(), trial, {"epoch": epoch, "top1": value})
        for epoch, value in values.items()
    ]


GOOD = [_log(number, [30.0, 50.0, 60.0]) for number in (1, 2, 3)]


@pytest.mark.parametrize("name", ["asha", "median"])
def test_trial_worse_than_earlier_runs_is_stopped_early(name: str) -> None:
    bad = {1: 5.0, 2: 10.0}
    assert _actions(_scheduler(GOOD, name), 4, bad) == [
        TrialScheduler.CONTINUE,
        TrialScheduler.STOP,
    ]
    assert _actions(_scheduler([], name), 4, bad) == [
        TrialScheduler.CONTINUE,
        TrialScheduler.CONTINUE,
    ]


@pytest.mark.parametrize("name", ["asha", "median", "hyperband", "none"])
def test_trial_better_than_earlier_runs_continues(name: str) -> None:
    assert set(_actions(_scheduler(GOOD, name), 4, {1: 50.0, 2: 70.0, 3: 80.0})) == {
        TrialScheduler.CONTINUE
    }


@pytest.mark.parametrize("name", ["asha", "median"])
def test_trial_after_its_last_epoch_may_finish(name: str) -> None:
    scheduler, trial = _scheduler(GOOD, name), Trial("trial4", {"number": 4})
    scheduler.on_trial_add(Controller(), trial)
    last = {"epoch": 3, "top1": 1.0, IS_LAST: 1.0}
    assert scheduler.on_trial_result(Controller(), trial, last) == TrialScheduler.CONTINUE
    assert (
        scheduler.on_trial_result(Controller(), trial, {"top1": 1.0, "num_samples": 9})
        == TrialScheduler.CONTINUE
    )


def test_without_a_scheduler_no_trial_is_stopped() -> None:
    assert set(_actions(_scheduler(GOOD, "none"), 4, {1: 0.0, 2: 0.0, 3: 0.0})) == {
        TrialScheduler.CONTINUE
    }


@pytest.mark.parametrize("name", ["asha", "median"])
def test_lower_is_better_with_mode_min(name: str) -> None:
    scheduler = _scheduler(GOOD, name, mode="min")
    assert _actions(scheduler, 4, {1: 5.0, 2: 10.0})[-1] == TrialScheduler.CONTINUE
    assert _actions(scheduler, 5, {1: 90.0, 2: 90.0})[-1] == TrialScheduler.STOP


def test_resumed_trial_has_its_own_value_at_its_rung() -> None:
    """It reports epoch 3 next, which is not a value for the rung of epoch 2."""
    resumed = _log(4, [40.0, 55.0], state=None)
    scheduler = _scheduler([*GOOD, resumed], "asha")
    assert _actions(scheduler, 4, {3: 10.0}) == [TrialScheduler.CONTINUE]
    unknown = _scheduler(GOOD, "asha")
    assert _actions(unknown, 4, {3: 10.0}) == [TrialScheduler.STOP]


def test_trials_of_earlier_runs_may_have_no_values() -> None:
    logs = [
        _log(1, []),
        TrialLog(number=2, params={}, drawn_after_s=0.0, state=TrialState.FAILED, error="lost"),
    ]
    for name in ("asha", "median"):
        assert _actions(_scheduler(logs, name), 3, {1: 1.0, 2: 1.0})[-1] == TrialScheduler.CONTINUE


def test_final_result_without_an_epoch_is_ignored() -> None:
    scheduler = _scheduler(GOOD[:2], "median")
    third = Trial("third", {"number": 3})
    scheduler.on_trial_add(Controller(), third)
    for epoch, value in ((1, 30.0), (2, 50.0)):
        scheduler.on_trial_result(Controller(), third, {"epoch": epoch, "top1": value})
    scheduler.on_trial_complete(Controller(), third, {"top1": 60.0, "num_samples": 9, "done": True})
    assert _actions(scheduler, 4, {1: 5.0, 2: 10.0}) == [
        TrialScheduler.CONTINUE,
        TrialScheduler.STOP,
    ]


def test_trial_added_again_is_replayed_only_once() -> None:
    scheduler = _scheduler([*GOOD, _log(4, [40.0, 55.0], state=None)], "median")
    trial = Trial("lost", {"number": 4})
    for _ in range(2):
        scheduler.on_trial_add(Controller(), trial)
    assert [result["epoch"] for result in scheduler._results[trial]] == [1, 2]


def test_hyperband_brackets_are_the_same_in_every_run() -> None:
    assert _dealt() == _dealt()
    assert set(_dealt()) == {0, 1, 2}


def test_random_numbers_of_other_threads_change_no_bracket(monkeypatch: pytest.MonkeyPatch) -> None:
    dealt, choice = _dealt(), np.random.choice

    def disturbed(*args: Any, **kwargs: Any) -> Any:
        np.random.rand()  # as a thread may at this moment
        return choice(*args, **kwargs)

    monkeypatch.setattr(np.random, "choice", disturbed)
    assert _dealt() == dealt


def _dealt() -> list[int]:
    """Return the brackets of thirty trials."""
    scheduler = _scheduler([], "hyperband")
    for number in range(1, 31):
        _actions(scheduler, number, {})
    return [scheduler._brackets.index(bracket) for bracket in scheduler._trial_info.values()]


@pytest.mark.parametrize(("factor", "is_stopped"), [(2, False), (4, True)])
def test_asha_keeps_one_in_n_after_the_grace_period(factor: int, is_stopped: bool) -> None:
    logs = [_log(number, [10.0 * number]) for number in (1, 2, 3, 4)]
    (action,) = _actions(_scheduler(logs, "asha", grace=1, factor=factor), 5, {1: 31.0})
    assert (action == TrialScheduler.STOP) is is_stopped
