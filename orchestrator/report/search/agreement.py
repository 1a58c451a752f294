"""Whether a search's short trials rank params as full training does. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import sqrt
from statistics import fmean

from pydantic import JsonValue

from orchestrator.artifact import Manifest, Value, canonical_json
from orchestrator.contract import Params, Role
from orchestrator.report.search.importance import weighed_trials
from orchestrator.spec import Job, Stage
from orchestrator.trials import Trial, Trials

MIN_PAIRS = 3


class Agreement(Value):
    """The rank correlation between the trials' values and the values that full training with their
    params came to."""

    kendall_tau: float
    """From -1, the reverse order, to 1, the same order; ties count as in tau-b."""
    num_trials: int
    """Trials whose params were trained in full too."""


def agreement_of(
    job: Job, search: str, trials: Trials, manifests: Mapping[str, Manifest]
) -> Agreement | None:
    """None where fewer than three trials' params were trained in full, or where one side is all the
    same.

    A trial's full value comes from the job's finished stages that are the search's template with
    the trial's params, `params_from` or written out: the mean, where they differ in their seeds.
    The search's overrides are what makes its trials short, so these stages need not follow them.
    """
    full = {
        trial.number: _full_values(job, search, trials.metric, trial, manifests)
        for trial in trials.trials
    }
    known = [trial for trial in weighed_trials(trials.trials) if full[trial.number]]
    if len(known) < MIN_PAIRS:
        return None
    proxies = [trial.value for trial in known if trial.value is not None]
    tau = kendall_tau(proxies, [fmean(full[trial.number]) for trial in known])
    return None if tau is None else Agreement(kendall_tau=tau, num_trials=len(known))


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b of two rankings of the same things; None where one of them ranks nothing."""
    pairs = list(combinations(zip(first, second, strict=True), 2))
    signs = [(_sign(one[0] - other[0]), _sign(one[1] - other[1])) for one, other in pairs]
    concordance = sum(x * y for x, y in signs)
    ranked = sum(abs(x) for x, _ in signs) * sum(abs(y) for _, y in signs)
    return concordance / sqrt(ranked) if ranked else None


def _sign(difference: float) -> int:
    return (difference > 0) - (difference < 0)


def _full_values(
    job: Job, search: str, metric: str, trial: Trial, manifests: Mapping[str, Manifest]
) -> list[float]:
    return [
        measured.value
        for name, manifest in manifests.items()
        if name in job.stages
        and _is_trial_in_full(job, job.stages[search], trial, job.stages[name], manifest)
        for measured in manifest.metrics
        if measured.name == metric
    ]


def _is_trial_in_full(
    job: Job, search: Stage, trial: Trial, stage: Stage, manifest: Manifest
) -> bool:
    """Whether `stage` ran as the search's template with what `trial` sampled."""
    assert search.search is not None
    template = job.stages.get(search.search.of)
    if template is None or stage.kind is not template.kind:
        return False
    try:
        expected, full = template.params.overlay(trial.params), stage.params.overlay(trial.params)
        ran = stage.kind.params.model_validate_json(canonical_json(manifest.params))
    except (ValueError, KeyError):
        # The stage cannot take the trial's params, or is of an older release.
        return False
    return _recipe(full) == _recipe(expected) and full.in_key() == ran.in_key()


def _recipe(params: Params) -> dict[str, JsonValue]:
    """What makes two stages of a job alike: the params by their effect, with the names of data and
    inputs."""
    named = {*params.fields_with(Role.DATA), *params.fields_with(Role.INPUT)}
    return {**params.model_dump(mode="json", include=named), **params.in_key()}
