"""The importance of params by fANOVA, for numbers, choices and mappings."""

from __future__ import annotations

import itertools
import logging

import optuna
import pytest
from pydantic import JsonValue

from orchestrator.report.search.importance import importances_of
from orchestrator.report.search.sampled import SampledParam, varied_params
from orchestrator.trials import TrialState
from tests.orchestrator.report.search.searched import asha_search, make_trial

SMALL: JsonValue = {"embed_dim": 32, "depths": [1, 1]}
LARGE: JsonValue = {"depths": [2, 2], "embed_dim": 64}


def test_param_that_determines_the_value_is_most_important() -> None:
    grid = itertools.product((1.0, 2.0, 3.0, 4.0), (SMALL, LARGE), (True, False))
    trials = [
        make_trial(
            number, {"width": width, "model": model, "flip": flip}, 10 * (model == LARGE) + width
        )
        for number, (width, model, flip) in enumerate(grid, 1)
    ]
    importances, reason = importances_of(trials)
    assert importances is not None
    assert reason is None
    assert list(importances) == ["model", "width", "flip"]
    assert importances["model"] > 0.8
    assert importances["flip"] < 0.02
    assert sum(importances.values()) == pytest.approx(1)


def test_importances_are_deterministic_and_optuna_is_silent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    optuna.logging.enable_propagation()
    try:
        with caplog.at_level(logging.DEBUG):
            first, again = (importances_of(asha_search().trials) for _ in range(2))
    finally:
        optuna.logging.disable_propagation()
    assert first == again
    assert [record for record in caplog.records if record.name.startswith("optuna")] == []


def test_too_few_trials_with_a_value_have_no_importances() -> None:
    trials = [make_trial(number, {"lr": number}, float(number)) for number in range(1, 4)]
    trials += [make_trial(4, {"lr": 4}, 4, state=TrialState.FAILED), make_trial(5, {"lr": 5}, None)]
    assert importances_of(trials) == (None, "needs at least 4 trials with a value, not 3")


def test_constant_params_have_no_importance() -> None:
    alike = [make_trial(number, {"lr": 0.1}, float(number)) for number in range(1, 6)]
    assert importances_of(alike) == (None, "all trials have the same params")
    mixed = [
        make_trial(number, {"lr": 0.1, "depth": number}, float(number)) for number in range(1, 6)
    ]
    assert importances_of(mixed) == ({"depth": 1.0}, None)


def test_equal_values_have_no_importances() -> None:
    trials = [make_trial(number, {"lr": number}, 5.0) for number in range(1, 6)]
    assert importances_of(trials) == (None, "all trials have the same value")


def test_param_that_a_trial_lacks_is_not_compared() -> None:
    trials = [make_trial(1, {"lr": 1, "depth": 1}), make_trial(2, {"depth": 2})]
    assert [param.name for param in varied_params(trials)] == ["depth"]


@pytest.mark.parametrize(
    ("values", "is_log"),
    [
        ((1e-4, 3e-4, 1e-3, 3e-3, 1e-2), True),  # even in the logarithm
        ((0.01, 0.08, 0.15, 0.22, 0.3), False),  # ratio above ten, but evenly spread
        ((1e-4, 2e-4, 4e-4, 8e-4), False),  # ratio below ten
        ((0.0, 1e-3, 1e-2, 1e-1), False),
        ((-1e-1, 1e-3, 1e-2), False),
        ((True, False), False),
        (("a", 1, None), False),
    ],
)
def test_log_spaced_numbers_have_a_log_axis(values: tuple[JsonValue, ...], is_log: bool) -> None:
    assert SampledParam("x", values).is_log is is_log


def test_one_and_true_differ_but_equal_mappings_are_one_choice() -> None:
    param = SampledParam("x", (True, 1, {"a": 1, "b": 2}, {"b": 2, "a": 1}, "text", None))
    assert param.numbers is None
    assert param.choices == ("1", "null", "text", "true", '{"a":1,"b":2}')
