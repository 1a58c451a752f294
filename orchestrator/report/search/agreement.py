"""Whether a search's short trials rank params in the same order as full training. Pure."""

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
    """The rank correlation between the trials' values and the values of full training with their
    params."""

    kendall_tau: float
    """From -1 (reverse order) to 1 (same order). Ties count as in tau-b."""
    num_trials: int
    """The number of trials whose params were also trained in full."""


def agreement_of(
    job: Job, search: str, trials: Trials, manifests: Mapping[str, Manifest]
) -> Agreement | None:
    """Return the agreement of a search. None if fewer than three trials' params were trained in
    full, or if all values of one side are equal.

    A trial's full value is the mean over the job's finished stages that equal the search's template
    with the trial's params, from `params_from` or written out. They may differ in their seeds, and
    in the search's overrides, which make the trials short.
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
    """Return Kendall's tau-b of two rankings of the same items. None if all items of one are
    tied."""
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
    """Whether `stage` ran as the search's template with the params of `trial`."""
    assert search.search is not None
    template = job.stages.get(search.search.of)
    if template is None or stage.kind is not template.kind:
        return False
    try:
        expected, full = template.params.overlay(trial.params), stage.params.overlay(trial.params)
        ran = stage.kind.params.model_validate_json(canonical_json(manifest.params))
    except (ValueError, KeyError):
        # The stage does not accept the trial's params, or comes from an older release.
        return False
    return _recipe(full) == _recipe(expected) and full.in_key() == ran.in_key()


def _recipe(params: Params) -> dict[str, JsonValue]:
    """Return what must be equal for two stages to be alike: the params by effect, and the names of
    data and inputs."""
    named = {*params.fields_with(Role.DATA), *params.fields_with(Role.INPUT)}
    return {**params.model_dump(mode="json", include=named), **params.in_key()}
