"""Run a trial of a search under Ray Tune, as its only worker or as the driver of a worker group."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pydantic import JsonValue
from ray import tune

from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.events import EventChannel
from orchestrator.cluster.failures import (
    MAX_ATTEMPTS,
    MAX_MOVES,
    LostAttempt,
    LostAttemptError,
    Retry,
    decide_retry,
    lasting_error,
)
from orchestrator.cluster.log_capture import captured_output
from orchestrator.cluster.machine import check_store
from orchestrator.cluster.suggest import MACHINE_ERROR, NUMBER
from orchestrator.cluster.trial_log import Logbook
from orchestrator.contract import Event
from orchestrator.errors import LeaseLostError, MachineError
from orchestrator.monitoring.tally import Amounts
from orchestrator.redaction import redactor
from orchestrator.store import Store, open_store
from orchestrator.store.trial_logs import (
    TrialLog,
    Tries,
    load_log,
    save_log,
    trial_id,
    trial_training,
)

MAX_TRIES = MAX_ATTEMPTS + MAX_MOVES
"""Tune's limit of attempts at a trial. It is never reached: this module ends the trial before."""
STOP_ANSWER_TIMEOUT_S = 60.0
"""How long a trial that ended with an error waits to learn whether its run is interrupted. No
answer in time counts as no."""


def make_trainable(attempt: Attempt, channel: EventChannel) -> Any:
    """Return the function that Tune calls with the config of each trial, with its resources."""
    resources = attempt.resources
    run = _run_group_trial if attempt.needs_group else _run_trial
    trial = tune.with_parameters(run, attempt=attempt, channel=channel)
    trial.__name__ = attempt.ray_name  # the column `Repr` of the dashboard's Actors page shows it
    if attempt.needs_group:
        # The driver reserves no CPU: otherwise drivers could block the workers that they wait for.
        return tune.with_resources(trial, {"cpu": 0, "memory": 100 * 2**20})
    bundle = {
        "CPU": resources.cpus_per_worker,
        "GPU": resources.gpus_per_worker,
        "memory": resources.memory_bytes_per_worker,
    }
    selectors = [dict(selector) for selector in attempt.selectors]
    factory = tune.PlacementGroupFactory([bundle], bundle_label_selector=selectors)
    return tune.with_resources(trial, factory)


def _run_trial(config: dict[str, Any], *, attempt: Attempt, channel: EventChannel) -> None:
    from orchestrator.cluster.worker import only_worker, report_result, run_pipeline  # noqa: PLC0415  torch

    worker = only_worker(
        attempt.resources, report_metrics=lambda metrics: tune.report(dict(metrics))
    )
    with _trial(attempt, config, channel) as begun:
        if begun is not None:
            with captured_output(begun.attempt, rank=0, world_size=1):
                result = run_pipeline(
                    begun.attempt, worker, channel, closes_stage=False, label=begun.label
                )
            report_result(worker, result)


def _run_group_trial(config: dict[str, Any], *, attempt: Attempt, channel: EventChannel) -> None:
    from ray.tune.integration.ray_train import TuneReportCallback  # noqa: PLC0415

    from orchestrator.cluster import group  # noqa: PLC0415  Ray Train and torch

    with _trial(attempt, config, channel) as begun:
        if begun is not None:
            group.run(
                begun.attempt,
                channel,
                closes_stage=False,
                callbacks=(TuneReportCallback(),),
                label=begun.label,
            )


@dataclass(frozen=True)
class _Begun:
    """A trial that begins or resumes."""

    attempt: Attempt
    store: Store
    channel: EventChannel
    log: TrialLog
    tries: Tries
    """The attempts so far, including this one."""

    @property
    def label(self) -> str:
        return _label(self.log.params)

    def say(self, text: str, *, done: float | None = None, lost: str | None = None) -> None:
        self.channel.send(
            self.attempt.says(Event(f"{self.label}{text}", done=done, total=1), lost=lost)
        )


@contextmanager
def _trial(
    attempt: Attempt, config: Mapping[str, Any], channel: EventChannel
) -> Iterator[_Begun | None]:
    """Yield the trial of `config`, and report its end even if the scheduler stops it early.

    Yields None if this run has lost the trial too often, if its search was cancelled, or if the
    machine cannot run it. An
    exception is raised again only if another attempt may follow, which Tune then begins.
    """
    try:
        check_store(attempt, is_writer=False)
    except MachineError as err:
        _end_search(err)
        yield None
        return
    if channel.is_stopping(attempt.stage):
        yield None
        return
    begun = _begin_attempt(attempt, open_store(attempt.store_uri), channel, config[NUMBER])
    if begun.tries.num_lost >= MAX_ATTEMPTS:
        why = f"lost its process in each of {MAX_ATTEMPTS} attempts"
        _leave_to_another_run(begun, why, elapsed_s=begun.log.elapsed_s)
        begun.say(f"{why}; the next run resumes it", done=1)
        yield None
        return
    began_s = time.monotonic()
    is_over = True
    try:
        yield begun
    except Exception as err:
        _rest_if_interrupted(begun)
        is_over = _is_last_attempt(
            begun, err, elapsed_s=begun.log.elapsed_s + time.monotonic() - began_s
        )
        if not is_over:
            raise
    finally:
        if is_over:
            begun.say("ended", done=1)


def _begin_attempt(search: Attempt, store: Store, channel: EventChannel, number: int) -> _Begun:
    training = trial_training(search.training, number)
    log = load_log(store, training)
    run_id = str(search.provenance["run_id"])
    earlier = log.tries if log.tries and log.tries.run_id == run_id else Tries(run_id=run_id)
    tries = earlier.begin()
    if earlier.num_begun:
        # Counted here, because a trial whose process was killed could not count its loss itself.
        lost_attempts = tries.num_lost - earlier.num_lost
        channel.count(Amounts(search.stage, search.number, retries=1, lost_attempts=lost_attempts))
    log = log.model_copy(update={"tries": tries, "error": None})
    save_log(store, training, log)
    trial = replace(
        search,
        trial=trial_id(number),
        trial_attempt=tries.num_begun,
        params=search.params.overlay(log.params),
        training=training,
    )
    begun = _Begun(trial, store, channel, log, tries)
    if tries.num_begun == 1:
        begun.say("starting", done=0)
    return begun


def _rest_if_interrupted(begun: _Begun) -> None:
    """In an interrupted run, block forever once the checkpoint is committed.

    If the trial ended, Tune would start the next one or record a failure. A trial that is killed
    with its driver is resumed by the next run.
    """
    if begun.channel.is_interrupted(timeout_s=STOP_ANSWER_TIMEOUT_S):
        begun.channel.rest(begun.attempt.stage)
        threading.Event().wait()


def _is_last_attempt(begun: _Begun, err: Exception, *, elapsed_s: float) -> bool:
    """Whether the trial gets no other attempt in this run after `err`. Records the error.

    `elapsed_s` is the time of all attempts together.
    """
    loss = err.loss if isinstance(err, LostAttemptError) else LostAttempt({0: err})
    trial, tries = begun.attempt, begun.tries
    lasting = lasting_error(loss.failures)
    if isinstance(lasting, MachineError | LeaseLostError):
        _end_search(lasting)  # the trial itself did not fail: another run resumes it
        return True
    if lasting is not None:
        Logbook(begun.store, trial.training, trial.metric).fail(
            lasting, elapsed_s=elapsed_s, secret_names=trial.logs.secret_names
        )
        return True
    timeout_min = trial.resources.collective_timeout_min
    decision = decide_retry(
        loss,
        num_lost=tries.num_lost,
        num_moves=tries.num_moves,
        is_stopping=begun.channel.is_stopping(trial.stage, timeout_s=STOP_ANSWER_TIMEOUT_S),
        timeout_min=timeout_min,
    )
    if not isinstance(decision, Retry):
        lost_attempts = int(decision.is_lost)
        begun.channel.count(Amounts(trial.stage, trial.number, lost_attempts=lost_attempts))
        _leave_to_another_run(begun, str(decision.error), elapsed_s=elapsed_s)
        return True
    if decision.is_move:
        log = load_log(begun.store, trial.training)
        save_log(begun.store, trial.training, log.model_copy(update={"tries": tries.move()}))
    begun.say(f"{decision.why}; resuming from its last checkpoint", lost=decision.why)
    return False


def _end_search(err: MachineError | LeaseLostError) -> None:
    """End the search because of an error that other trials would get, too. Tune itself would repeat
    the trial a hundred times."""
    tune.report({MACHINE_ERROR: str(err)})


def _leave_to_another_run(begun: _Begun, why: str, *, elapsed_s: float) -> None:
    """Record why the trial was lost. Another run resumes it."""
    log = load_log(begun.store, begun.attempt.training)
    clean = redactor(os.environ, begun.attempt.logs.secret_names).redacted_text
    changes = {"error": clean(why.splitlines()[0]), "elapsed_s": elapsed_s}
    save_log(begun.store, begun.attempt.training, log.model_copy(update=changes))


def _label(params: Mapping[str, JsonValue]) -> str:
    """Return the prefix of a trial's events: the values that it tries."""
    values = (
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    )
    return f"trial {' '.join(values)}: "
