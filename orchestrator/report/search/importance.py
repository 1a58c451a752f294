"""How much of the difference between trials each searched param explains, by Optuna's fANOVA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

from orchestrator.report.search.sampled import SampledParam, varied_params
from orchestrator.trials import Trial, TrialState

MIN_TRIALS = 4
"""With fewer trials the result is meaningless: a forest splits three points almost at random."""
SEED = 0


def importances_of(trials: Sequence[Trial]) -> tuple[Mapping[str, float] | None, str | None]:
    """Return each varied param's share, the largest first, which add up to 1. Otherwise return None
    and the reason.

    A stopped trial counts with its last value, although it trained for fewer epochs. Failed trials
    do not count.
    """
    valued = weighed_trials(trials)
    if len(valued) < MIN_TRIALS:
        return None, f"needs at least {MIN_TRIALS} trials with a value, not {len(valued)}"
    params = varied_params(valued)
    if not params:
        return None, "all trials have the same params"
    values = [value for trial in valued if (value := trial.value) is not None]
    if len(set(values)) == 1:
        return None, "all trials have the same value"
    return _fanova(params, values), None


def weighed_trials(trials: Sequence[Trial]) -> list[Trial]:
    return [
        trial
        for trial in trials
        if trial.value is not None and trial.state is not TrialState.FAILED
    ]


def _fanova(params: Sequence[SampledParam], values: Sequence[float]) -> dict[str, float]:
    import optuna  # noqa: PLC0415  with scikit-learn it takes 2 s, and only reports with a search need it

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study()
    finally:
        optuna.logging.set_verbosity(verbosity)
    columns = {param.name: _column(param) for param in params}
    distributions = {param.name: _distribution(param) for param in params}
    for number, value in enumerate(values):
        sample = {name: column[number] for name, column in columns.items()}
        study.add_trial(
            optuna.create_trial(params=sample, distributions=distributions, value=value)
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=SEED)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}


def _column(param: SampledParam) -> Sequence[float | str]:
    """Return the values for the forest. Optuna's fANOVA weighs a param uniformly over its range, so
    a param that was sampled by its logarithm is passed as its logarithm."""
    numbers = param.numbers
    if numbers is None:
        return param.texts
    return [log(number) for number in numbers] if param.is_log else numbers


def _distribution(param: SampledParam) -> object:
    from optuna.distributions import CategoricalDistribution, FloatDistribution  # noqa: PLC0415

    column = _column(param)
    numbers = [number for number in column if not isinstance(number, str)]
    if not numbers:
        return CategoricalDistribution(param.choices)
    return FloatDistribution(min(numbers), max(numbers))
