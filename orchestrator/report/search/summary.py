"""SearchSummary: the results and the cost of a search, from its Trials. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.artifact import Manifest, Value
from orchestrator.report.search.agreement import Agreement, agreement_of
from orchestrator.report.search.importance import importances_of
from orchestrator.spec import Job
from orchestrator.trials import Trial, Trials, TrialState


class Hours(Value):
    """Time that workers held resources."""

    gpu: float
    core: float


class SearchSummary(Value):
    """The main numbers of a search."""

    metric: str
    mode: str
    num_finished: int
    num_stopped: int
    num_failed: int
    failures: Mapping[str, tuple[int, ...]]
    """The numbers of the failed trials, by reason."""
    best: int | None
    """The number of the best trial."""
    best_value: float | None
    best_so_far: tuple[float | None, ...]
    """The best value after each trial, in the order of their numbers; None before the first trial
    that counts. Stopped trials count only if none finished, as for the best trial."""
    spent: Hours
    saved: Hours | None
    """An estimate of what stopped trials would still have cost. None if no trial finished."""
    importances: Mapping[str, float] | None
    """The importance of each param, the largest first. They add up to 1."""
    no_importances: str | None
    """Why importances are missing."""
    agreement: Agreement | None
    """None if fewer than three trials' params were trained in full."""


@dataclass(frozen=True)
class Search:
    """A finished search of a job."""

    stage: str
    trials: Trials
    summary: SearchSummary


def make_searches(
    job: Job, manifests: Mapping[str, Manifest], trials: Mapping[str, Trials]
) -> tuple[Search, ...]:
    """Return the searches that have trials, in the job's order."""
    return tuple(
        Search(
            name,
            trials[name],
            summarise(trials[name], agreement_of(job, name, trials[name], manifests)),
        )
        for name in job.stages
        if name in trials
    )


def summarise(trials: Trials, agreement: Agreement | None = None) -> SearchSummary:
    best = trials.best()
    importances, no_importances = importances_of(trials.trials)
    counts = {state: sum(trial.state is state for trial in trials.trials) for state in TrialState}
    return SearchSummary(
        metric=trials.metric,
        mode=trials.mode,
        num_finished=counts[TrialState.FINISHED],
        num_stopped=counts[TrialState.STOPPED],
        num_failed=counts[TrialState.FAILED],
        failures=_failures(trials.trials),
        best=best.number if best else None,
        best_value=best.value if best else None,
        best_so_far=tuple(_best_so_far(trials, best)),
        spent=_total((trial, 1.0) for trial in trials.trials),
        saved=_saved(trials.trials),
        importances=importances,
        no_importances=no_importances,
        agreement=agreement,
    )


def is_rival(trial: Trial, best: Trial) -> bool:
    """Whether `trial` trained as long as the best one, so that their values are comparable."""
    went_as_far = best.state is TrialState.FINISHED or trial.epoch == best.epoch
    return trial.value is not None and trial.state is best.state and went_as_far


def best_first(trials: Trials) -> list[Trial]:
    """Return finished trials by value, then stopped ones by epochs and value, then failed ones."""
    states, sign = list(TrialState), -1 if trials.mode == "max" else 1

    def rank(trial: Trial) -> tuple[float, ...]:
        reached = 0 if trial.state is TrialState.FINISHED else -trial.epoch
        by_value = (1.0, 0.0) if trial.value is None else (0.0, sign * trial.value)
        return states.index(trial.state), reached, *by_value, trial.number

    return sorted(trials.trials, key=rank)


def _best_so_far(trials: Trials, best: Trial | None) -> Iterable[float | None]:
    better = max if trials.mode == "max" else min
    so_far: float | None = None
    for trial in sorted(trials.trials, key=lambda trial: trial.number):
        if best is not None and trial.value is not None and is_rival(trial, best):
            so_far = trial.value if so_far is None else better(so_far, trial.value)
        yield so_far


def _failures(trials: Sequence[Trial]) -> dict[str, tuple[int, ...]]:
    failed = [trial for trial in trials if trial.state is TrialState.FAILED]
    reasons = dict.fromkeys(_reason(trial) for trial in failed)
    return {
        reason: tuple(trial.number for trial in failed if _reason(trial) == reason)
        for reason in reasons
    }


def _reason(trial: Trial) -> str:
    return trial.error or "no reason recorded"


def _saved(trials: Sequence[Trial]) -> Hours | None:
    """Estimate the cost of the epochs that stopped trials lack compared with the shortest finished
    one, at each trial's own pace."""
    full = min(
        (trial.epoch for trial in trials if trial.state is TrialState.FINISHED), default=None
    )
    if full is None:
        return None
    stopped = [
        trial for trial in trials if trial.state is TrialState.STOPPED and trial.duration_s > 0
    ]
    return _total(
        (trial, max(0, full - trial.epoch) * seconds_per_epoch(trial) / trial.duration_s)
        for trial in stopped
    )


def _total(shares: Iterable[tuple[Trial, float]]) -> Hours:
    """Return the sum of the trials' hours, each multiplied by its factor."""
    shared = list(shares)
    return Hours(
        gpu=sum(trial.gpu_hours * factor for trial, factor in shared),
        core=sum(trial.core_hours * factor for trial, factor in shared),
    )


def seconds_per_epoch(trial: Trial) -> float:
    """Return the pace between the first and the last report.

    The start-up is included only if there is a single report. Returns 0 if there is none.
    """
    if not trial.curve:
        return 0.0
    first, last = trial.curve[0], trial.curve[-1]
    if last.epoch > first.epoch:
        return (last.elapsed_s - first.elapsed_s) / (last.epoch - first.epoch)
    return last.elapsed_s / last.epoch
