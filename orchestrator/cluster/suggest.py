"""Draw the samples that a search tries, with Optuna. Each is written to the store before its trial
starts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import JsonValue
from ray.tune.search import Searcher

from orchestrator.artifact import canonical_json
from orchestrator.errors import MachineError, StoreError, UnreachableError
from orchestrator.spec import Distribution, TuneParams
from orchestrator.store import Store
from orchestrator.store.training import Training
from orchestrator.store.trial_logs import TrialLog, load_log, save_log, save_stop, trial_training
from orchestrator.trials import TrialState as State

NUMBER = "number"
"""The key of a trial's number in its config. Its params are in its log."""
MACHINE_ERROR = "machine_error"
"""The key that a trial reports if its machine cannot run it. It ends the search."""

_ENDS = {
    State.FINISHED: TrialState.COMPLETE,
    State.STOPPED: TrialState.PRUNED,
    State.FAILED: TrialState.FAIL,
}


class Suggestions(Searcher):  # type: ignore[misc]  # Ray's has no types
    """Suggests the samples that earlier runs left unfinished, then the given points, then new
    draws.

    A draw depends on the seed, its number and the results known by then. With one trial at a time,
    a search that was killed and resumed therefore draws the same samples.
    """

    def __init__(
        self,
        params: TuneParams,
        *,
        seed: int,
        metric: str,
        store: Store,
        training: Training,
        is_stopping: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(metric=metric, mode=params.mode)
        self._params = params
        self._seed = seed
        self._store = store
        self._training = training
        self._is_stopping = is_stopping
        """Whether the search was asked to stop. No trial starts after it."""
        self._clock = clock
        """In seconds."""
        self._began_s = clock()
        # Sorted by name: draws depend on the order, and the order in the job file is not in the
        # Key.
        self._space = {name: _distribution(drawn) for name, drawn in sorted(params.space.items())}
        self._study = optuna.create_study(
            direction="maximize" if params.mode == "max" else "minimize"
        )
        self._trials: dict[str, tuple[optuna.Trial, TrialLog]] = {}
        """Running trials, by Tune's id."""
        self._unfinished: list[TrialLog] = []
        self._num_drawn = 0
        self._values: list[float | None] = []
        """Values of the trials, in the order in which they ended."""
        self.failure: UnreachableError | None = None
        """The error of the store or of a machine that ended a trial. No trial starts after it."""

    def learn(self, logs: Sequence[TrialLog]) -> None:
        """Add the samples and results of earlier runs of the search."""
        self._num_drawn = len(logs)
        self._began_s -= max((log.drawn_after_s + log.elapsed_s for log in logs), default=0.0)
        self._unfinished = [log for log in logs if log.state is None]
        ended = [log for log in logs if log.state is not None]
        for log in ended:
            self._study.add_trial(self._frozen(log))
        self._values = [
            _outcome(log)
            for log in sorted(ended, key=lambda log: log.drawn_after_s + log.elapsed_s)
        ]

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Return the config of the next trial, which Tune calls `trial_id`, or
        Searcher.FINISHED."""
        try:
            found = None if self.failure or self._is_stopping() else self._next()
        except StoreError as err:
            self.failure = err
            found = None
        if found is None:
            return str(Searcher.FINISHED)
        self._trials[trial_id] = found
        _, log = found
        return {NUMBER: log.number}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Report the trial's result, from its log, to Optuna. If the scheduler stopped the trial,
        also record that in the store.

        Tune treats an error raised here as the trial's own and restarts the trial, so an error of
        the store is kept in `failure`.
        """
        trial, drawn = self._trials.pop(trial_id)
        if result and MACHINE_ERROR in result:
            self.failure = self.failure or MachineError(str(result[MACHINE_ERROR]))
            return
        try:
            log = self._ended(drawn.number, is_lost=error)
        except StoreError as err:
            self.failure = self.failure or err
            return
        for point in log.curve:
            if point.value is not None:
                trial.report(point.value, step=point.epoch)
        state = _ENDS[log.state or State.FAILED]
        if state is TrialState.COMPLETE and log.value is None:
            state = TrialState.FAIL
        self._study.tell(trial, log.value if state is TrialState.COMPLETE else None, state=state)
        self._values.append(_outcome(log))

    def _ended(self, number: int, *, is_lost: bool) -> TrialLog:
        """Return the log of a trial that is over, marked as stopped if the scheduler stopped it.

        Another run resumes a trial that is over because the search was asked to stop.
        """
        training = trial_training(self._training, number)
        log = load_log(self._store, training)
        if log.state is None and log.error is None and not is_lost and not self._is_stopping():
            save_stop(self._store, training)
            log = log.model_copy(update={"state": State.STOPPED})
        return log

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Do nothing: metric, mode and space are set in the constructor."""
        return True

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Do nothing: a search resumes from the logs in the store."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing. Tune pickles the searcher for its own way of resuming, which is not
        used."""
        return {}

    def _next(self) -> tuple[optuna.Trial, TrialLog] | None:
        if self._unfinished:
            log = self._unfinished.pop(0)
            return self._ask(log.params, log.number), log
        if self._num_drawn >= self._params.size or self._has_enough():
            return None
        return self._draw()

    def _draw(self) -> tuple[optuna.Trial, TrialLog]:
        number, points = self._num_drawn + 1, self._params.points
        trial = self._ask(points[number - 1] if number <= len(points) else None, number)
        values = {
            name: _decoded(value, self._params.space[name]) for name, value in trial.params.items()
        }
        log = TrialLog(number=number, params=values, drawn_after_s=self._clock() - self._began_s)
        save_log(self._store, trial_training(self._training, number), log)
        self._num_drawn = number
        return trial, log

    def _ask(self, point: Mapping[str, JsonValue] | None, number: int) -> optuna.Trial:
        """Return Optuna's trial for `point`, or for a new draw."""
        if point is not None:
            self._study.enqueue_trial(self._encoded(point))
        self._study.sampler = _sampler(self._params, seed=self._seed, number=number)
        return self._study.ask(self._space)

    def _has_enough(self) -> bool:
        stop = self._params.stop
        if stop.hours is not None and self._clock() - self._began_s >= stop.hours * 3600:
            return True
        return (
            stop.no_improvement is not None
            and num_since_best(self._values, self._params.mode) >= stop.no_improvement
        )

    def _encoded(self, params: Mapping[str, JsonValue]) -> dict[str, Any]:
        space = self._params.space
        return {
            name: canonical(value) if space[name].choice else value
            for name, value in params.items()
        }

    def _frozen(self, log: TrialLog) -> FrozenTrial:
        assert log.state is not None
        state = _ENDS[log.state]
        if state is TrialState.COMPLETE and log.value is None:
            state = TrialState.FAIL
        return create_trial(
            state=state,
            value=log.value if state is TrialState.COMPLETE else None,
            params=self._encoded(log.params),
            distributions=self._space,
            intermediate_values={
                point.epoch: point.value for point in log.curve if point.value is not None
            },
        )


def _outcome(log: TrialLog) -> float | None:
    """The trial's last value, or None if it failed: a failed trial is never the best."""
    return None if log.state in (State.FAILED, None) else log.last_value


def num_since_best(values: Sequence[float | None], mode: str) -> int:
    """The number of values after the first occurrence of the best one."""
    sign = 1 if mode == "max" else -1
    best = max((sign * value for value in values if value is not None), default=None)
    if best is None:
        return len(values)
    return (
        len(values)
        - 1
        - next(i for i, value in enumerate(values) if value is not None and sign * value == best)
    )


def canonical(value: JsonValue) -> str:
    """Return a choice as JSON text: Optuna accepts no lists or mappings, and in Python 1 ==
    True."""
    return canonical_json(value).decode()


def _decoded(value: Any, drawn: Distribution) -> JsonValue:
    decoded: JsonValue = json.loads(value) if drawn.choice else value
    return decoded


def _distribution(drawn: Distribution) -> BaseDistribution:
    match drawn.name:
        case "choice":
            return CategoricalDistribution(list(dict.fromkeys(map(canonical, drawn.choice or ()))))
        case "randint":
            low, high = drawn.args
            return IntDistribution(low, high - 1)
        case "quniform":
            low, high, step = drawn.args
            return FloatDistribution(low, high, step=step)
        case name:
            low, high = drawn.args
            return FloatDistribution(low, high, log=name == "loguniform")


def _sampler(params: TuneParams, *, seed: int, number: int) -> BaseSampler:
    """Return a new sampler for each draw, so that its random numbers do not depend on how often the
    search was resumed."""
    own = params.algorithm.seed
    drawn = int(np.random.SeedSequence([seed if own is None else own, number]).generate_state(1)[0])
    # Optuna counts running trials as bad ones, so parallel trials do not try the same point.
    return (
        TPESampler(seed=drawn) if params.algorithm.name == "optuna" else RandomSampler(seed=drawn)
    )
