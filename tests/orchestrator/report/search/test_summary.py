"""The summary of a search: the best trials, the cost, what early stopping saved, and failures."""

from __future__ import annotations

import pytest

from orchestrator.report.search.summary import best_first, summarise
from orchestrator.trials import TrialState
from tests.orchestrator.report.search.searched import (
    EPOCH_S,
    START_S,
    asha_search,
    make_trial,
    make_trials,
)

STOPPED, FAILED = TrialState.STOPPED, TrialState.FAILED


def test_best_so_far_prefers_finished_trials() -> None:
    trials = make_trials(
        make_trial(1, {}, 90, state=STOPPED),
        make_trial(2, {}, 10, 50),
        make_trial(3, {}, 10, 40),
        make_trial(4, {}, 99, state=FAILED, error="OOM"),
        make_trial(5, {}, 10, 60),
    )
    summary = summarise(trials)
    assert summary.best_so_far == (None, 50, 50, 50, 60)
    assert summary.best == 5
    assert summary.best_value == 60


def test_best_so_far_decreases_with_mode_min() -> None:
    trials = make_trials(
        *(make_trial(number, {}, value) for number, value in enumerate((3.0, 4.0, 1.0), 1)),
        mode="min",
    )
    assert summarise(trials).best_so_far == (3, 3, 1)


def test_best_so_far_uses_the_longest_trials_if_none_finished() -> None:
    trials = make_trials(
        make_trial(1, {}, 90, state=STOPPED),
        make_trial(2, {}, 1, 20, state=STOPPED),
        make_trial(3, {}, state=STOPPED),
    )
    assert summarise(trials).best_so_far == (None, 20, 20)


def test_search_with_only_failed_trials_has_no_best() -> None:
    summary = summarise(make_trials(make_trial(1, {"lr": 1.0}, state=FAILED, error="NaN")))
    assert summary.best is None
    assert summary.best_so_far == (None,)
    assert summary.num_failed == 1
    assert summary.failures == {"NaN": (1,)}


def test_best_so_far_ends_with_the_best_trials_value() -> None:
    trials = asha_search()
    summary = summarise(trials)
    best = trials.best()
    assert best is not None
    assert summary.best == best.number
    assert summary.best_so_far[-1] == best.value
    assert summary.num_finished == 14
    assert summary.num_stopped == 10
    assert summary.num_failed == 2


def test_failures_are_grouped_by_reason() -> None:
    oom = [make_trial(number, {}, state=FAILED, error="OOM") for number in (1, 3)]
    trials = make_trials(oom[0], make_trial(2, {}, state=FAILED), oom[1])
    assert summarise(trials).failures == {"OOM": (1, 3), "no reason recorded": (2,)}


def test_stopping_saves_the_missing_epochs() -> None:
    slow = make_trial(2, {}, 1, 2, state=STOPPED, epoch_s=3 * EPOCH_S, gpus=2)
    summary = summarise(make_trials(make_trial(1, {}, *range(10)), slow))
    assert summary.saved is not None
    # eight epochs of three times the length on two GPUs, without another start-up
    assert summary.saved.gpu == pytest.approx(8 * 3 * EPOCH_S * 2 / 3600)
    assert summary.saved.core == pytest.approx(8 * 3 * EPOCH_S * 4 / 3600)


def test_pace_of_a_single_report_includes_the_start_up() -> None:
    summary = summarise(make_trials(make_trial(1, {}, 1, 2), make_trial(2, {}, 1, state=STOPPED)))
    assert summary.saved is not None
    assert summary.saved.core == pytest.approx((START_S + EPOCH_S) * 4 / 3600)


def test_stopped_trials_longer_than_a_finished_one_save_nothing() -> None:
    short, long = make_trial(1, {}, 5), make_trial(2, {}, 1, 2, 3, state=STOPPED)
    saved = summarise(make_trials(short, long)).saved
    assert saved is not None
    assert saved.gpu == 0
    assert saved.core == 0


def test_savings_are_unknown_if_no_trial_finished() -> None:
    assert summarise(make_trials(make_trial(1, {}, 1, state=STOPPED))).saved is None


def test_spent_hours_include_failed_trials() -> None:
    summary = summarise(
        make_trials(make_trial(1, {}, 1, gpus=1), make_trial(2, {}, 1, state=FAILED, gpus=1))
    )
    assert summary.spent.gpu == pytest.approx(2 * (START_S + EPOCH_S) / 3600)
    assert summary.spent.core == pytest.approx(4 * summary.spent.gpu)


@pytest.mark.parametrize(
    ("mode", "order"), [("max", [4, 3, 6, 5, 2, 1]), ("min", [3, 4, 6, 5, 2, 1])]
)
def test_trials_are_listed_best_first(mode: str, order: list[int]) -> None:
    trials = make_trials(
        make_trial(1, {}, 99, state=FAILED),
        make_trial(2, {}, None, state=STOPPED),
        make_trial(3, {}, 1, 2),
        make_trial(4, {}, 1, 3),
        make_trial(5, {}, 50, state=STOPPED),
        make_trial(6, {}, 1, 1, state=STOPPED),
        mode=mode,
    )
    assert [trial.number for trial in best_first(trials)] == order
