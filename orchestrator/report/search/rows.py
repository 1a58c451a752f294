"""A search's trials as rows of a table, and its summary as lines, for the terminal and Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from pydantic import JsonValue

from orchestrator.artifact import unit_of
from orchestrator.numbers import count_text, duration, hours_text, number_text
from orchestrator.report.search.sampled import value_words
from orchestrator.report.search.summary import Search, SearchSummary, best_first
from orchestrator.trials import Trial, TrialState

MAX_ROWS = 20
WIDTH = 120
"""Characters per line without a terminal."""
OTHERS_WIDTH = 61
"""Characters per line for all columns except the params."""
GAP = 3
"""Characters between two columns."""

MAX_CELL = 17
"""Maximum characters of a param in its own column. The line of the best trial shows all of them."""

STATE_WORDS = {
    TrialState.FINISHED: "finished",
    TrialState.STOPPED: "stopped",
    TrialState.FAILED: "failed",
}


@dataclass(frozen=True)
class TrialColumn:
    """A column of the table of trials."""

    header: str
    text: Callable[[Trial], str]
    is_number: bool = True
    is_long: bool = False
    """Whether its texts may need more than one line."""


def trial_columns(search: Search, *, width: int = WIDTH) -> tuple[TrialColumn, ...]:
    """Return the columns, with one per param, or one for all params if they do not fit into `width`
    characters."""
    has_gpus = search.summary.spent.gpu > 0
    hours = TrialColumn("GPU-hours", lambda trial: hours_text(trial.gpu_hours))
    core_hours = TrialColumn("core-hours", lambda trial: hours_text(trial.core_hours))
    return (
        TrialColumn("trial", lambda trial: str(trial.number)),
        *_param_columns(search.trials.trials, room=width - OTHERS_WIDTH),
        TrialColumn(search.trials.metric, lambda trial: number_text(trial.value) or "-"),
        TrialColumn("epochs", lambda trial: str(trial.epoch)),
        TrialColumn("state", lambda trial: STATE_WORDS[trial.state], is_number=False),
        TrialColumn("duration", lambda trial: duration(trial.duration_s)),
        hours if has_gpus else core_hours,
    )


def shown_trials(search: Search) -> list[Trial]:
    """Return the trials that the table shows, best first."""
    return best_first(search.trials)[:MAX_ROWS]


def summary_lines(search: Search) -> tuple[str, ...]:
    """Return the results of a search, one sentence per line."""
    summary = search.summary
    num_more = len(search.trials.trials) - MAX_ROWS
    lines = (
        f"and {num_more} more trials; --format json has all of them" if num_more > 0 else None,
        _counts(summary),
        *(f"failed: {_trials(numbers)}: {reason}" for reason, numbers in summary.failures.items()),
        _best(search),
        _cost(summary),
        _importance(summary),
        _agreement(summary),
    )
    return tuple(line for line in lines if line is not None)


def params_words(params: Mapping[str, JsonValue]) -> str:
    """Return text such as `lr=0.0005 mixup=0.2`."""
    return " ".join(f"{name}={value_words(value)}" for name, value in params.items())


def _param_columns(trials: Sequence[Trial], *, room: int) -> tuple[TrialColumn, ...]:
    names = tuple(dict.fromkeys(name for trial in trials for name in trial.params))
    columns = tuple(_param_column(name, trials) for name in names)
    widths = [max(map(len, (column.header, *map(column.text, trials)))) for column in columns]
    if sum(widths) + GAP * len(widths) > room:
        return (
            TrialColumn(
                "params", lambda trial: params_words(trial.params), is_number=False, is_long=True
            ),
        )
    return columns


def _param_column(name: str, trials: Sequence[Trial]) -> TrialColumn:
    is_number = all(isinstance(trial.params.get(name), int | float) for trial in trials)
    return TrialColumn(name, partial(_param, name), is_number=is_number)


def _param(name: str, trial: Trial) -> str:
    return _elided(value_words(trial.params[name])) if name in trial.params else ""


def _elided(text: str) -> str:
    """Return the start and the end of a long text, because mappings often have the same start."""
    half = (MAX_CELL - 3) // 2
    return text if len(text) <= MAX_CELL else f"{text[:half]}...{text[-half:]}"


def _counts(summary: SearchSummary) -> str:
    counts = {
        "finished": summary.num_finished,
        "stopped early": summary.num_stopped,
        "failed": summary.num_failed,
    }
    shown = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
    return f"{count_text(sum(counts.values()), 'trial')}: {shown}"


def _trials(numbers: Sequence[int]) -> str:
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _best(search: Search) -> str | None:
    best = search.trials.best()
    if best is None:
        return None
    metric = search.trials.metric
    value = f"{number_text(best.value)} {unit_of(metric)}".rstrip()
    return (
        f"best: trial {best.number}, {metric} {value} at epoch {best.epoch}, with "
        f"{params_words(best.params)}"
    )


def _cost(summary: SearchSummary) -> str:
    is_on_gpus = summary.spent.gpu > 0
    unit = "GPU-hours" if is_on_gpus else "core-hours"
    spent = summary.spent.gpu if is_on_gpus else summary.spent.core
    line = f"spent: {hours_text(spent)} {unit}"
    if summary.saved is None or summary.num_stopped == 0:
        return line
    saved = summary.saved.gpu if is_on_gpus else summary.saved.core
    share = saved / (spent + saved) if spent + saved else 0
    return (
        f"{line}; early stopping saved about {hours_text(saved)}, {share:.0%} of the cost "
        "without it"
    )


def _importance(summary: SearchSummary) -> str:
    if summary.importances is None:
        return f"importance of params: none, {summary.no_importances}"
    shares = ", ".join(f"{name} {share:.0%}" for name, share in summary.importances.items())
    return f"importance of params (fANOVA): {shares}"


def _agreement(summary: SearchSummary) -> str | None:
    agreement = summary.agreement
    if agreement is None:
        return None
    trials = count_text(agreement.num_trials, "trial")
    return (
        f"short trials and full training: Kendall's tau {agreement.kendall_tau:+.2f} over the "
        f"params of {trials} that were also trained in full"
    )
