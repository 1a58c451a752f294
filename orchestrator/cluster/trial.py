"""A trial of a search, as Ray Tune runs it: in its own process, or as the driver of a group of workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray.train
import torch
from pydantic import JsonValue
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.connection import is_leaving
from orchestrator.cluster.events import EventChannel
from orchestrator.cluster.logbook import Logbook
from orchestrator.cluster.suggest import NUMBER
from orchestrator.cluster.train import fit, lasting_error, loss_of
from orchestrator.cluster.worker import Place, run_pipeline, tell_result
from orchestrator.contract import Event
from orchestrator.errors import OrchestratorError, StageError
from orchestrator.store import Store, open_store
from orchestrator.store.trials import TrialLog, load_log, trial_id, trial_training
from orchestrator.trials import TrialState


def make_trainable(attempt: Attempt, channel: EventChannel) -> Any:
    """What Tune calls with the config of each trial, with the resources that it takes."""
    resources = attempt.resources
    if attempt.workers > 1 or resources.labels:
        # The driver takes no CPU: one CPU each would let drivers starve the workers that they wait for.
        trial = tune.with_parameters(_run_group_trial, attempt=attempt, channel=channel)
        return tune.with_resources(trial, {"cpu": 0, "memory": 100 * 2**20})
    trial = tune.with_parameters(_run_trial, attempt=attempt, channel=channel)
    memory = {"memory": resources.memory_gib_per_worker * 2**30} if resources.memory_gib_per_worker else {}
    return tune.with_resources(trial, {"cpu": resources.cpus_per_worker, "gpu": resources.gpus_per_worker, **memory})


def _run_trial(config: dict[str, Any], *, attempt: Attempt, channel: EventChannel) -> None:
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    place = Place(
        rank=0,
        world_size=1,
        device=device,
        tell=lambda metrics: tune.report(dict(metrics)),
        hear_rank_zero=lambda number: number,
        is_leaving=is_leaving,
    )
    store = open_store(attempt.store_uri)
    trial, log = _begin(attempt, store, config)
    with _ending(trial, store, channel, log):
        tell_result(place, run_pipeline(trial, place, channel, closes_stage=False, label=_label(log.params)))


def _run_group_trial(config: dict[str, Any], *, attempt: Attempt, channel: EventChannel) -> None:
    store = open_store(attempt.store_uri)
    trial, log = _begin(attempt, store, config)
    with _ending(trial, store, channel, log):
        fit(trial, channel, closes_stage=False, callbacks=(TuneReportCallback(),), label=_label(log.params))


def _begin(attempt: Attempt, store: Store, config: Mapping[str, Any]) -> tuple[Attempt, TrialLog]:
    """The attempt at the trial, and its log. Raises the error of an earlier attempt that another would meet again."""
    training = trial_training(attempt.training, config[NUMBER])
    log = load_log(store, training)
    if log.state is TrialState.FAILED:
        raise StageError(log.error)
    params = attempt.params.overlay(log.params)
    return replace(attempt, trial=trial_id(log.number), params=params, training=training), log


@contextmanager
def _ending(trial: Attempt, store: Store, channel: EventChannel, log: TrialLog) -> Iterator[None]:
    """Tell the trial's end, also where the scheduler stops it before its last epoch, and note an error that lasts.

    A trial of an interrupted run rests when its checkpoint is committed: Tune would start the next one in its place,
    or note it as failed, while a trial that ends with its driver is taken up again.
    """
    began_s = time.monotonic()
    try:
        yield
    except Exception as err:
        if channel.is_stopping():
            channel.rest(trial.stage)
            threading.Event().wait()
        if (lasting := _lasting(err)) is not None:
            elapsed_s = log.elapsed_s + time.monotonic() - began_s
            Logbook(store, trial.training, trial.metric).fail(lasting, elapsed_s=elapsed_s)
        raise
    finally:
        channel.send(trial.says(Event(f"{_label(log.params)}ended", done=1, total=1)))


def _lasting(err: Exception) -> OrchestratorError | None:
    """What another attempt at the trial would meet again."""
    failures = loss_of(err).failures if isinstance(err, ray.train.TrainingFailedError) else {0: err}
    return lasting_error(failures)


def _label(params: Mapping[str, JsonValue]) -> str:
    """What stands before the events of a trial: the values that it tries."""
    values = (
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()
    )
    return f"trial {' '.join(values)}: "
