"""The kind `tune`: a hyperparameter search on Ray Tune, over the params of another stage."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import SearchAlgorithm, Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from orchestrator.artifact import Metric
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.connection import is_leaving
from orchestrator.cluster.events import EventChannel
from orchestrator.cluster.train import fit
from orchestrator.cluster.worker import Place, run_pipeline, tell_result
from orchestrator.contract import Event, StageResult
from orchestrator.errors import JobError, StageError
from orchestrator.spec import TuneParams
from orchestrator.store import open_store

# A search speaks through events alone: Tune's new output prints even at verbose=0, its logger each trial's traceback.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
logging.getLogger("optuna").setLevel(logging.WARNING)

MAX_TRIAL_FAILURES = 1
"""A trial whose process is lost is tried once more, from its last checkpoint."""

NO_LIMIT = 10**9
"""ASHA's max_t: a trial ends by itself, after the epochs that its params give it."""


def search(
    attempt: Attempt, params: TuneParams, metric: str, *, slots: int, channel: EventChannel, scratch: Path
) -> StageResult:
    """Search `params.space` with `slots` trials at a time; finished trials of an earlier try are kept.

    Raises JobError when a trial shows the job or its data wrong, StageError when no trial succeeds.
    """
    tuner = _restored(attempt, channel)
    channel.send(attempt.says(_beginning(tuner, params, metric, slots=slots)))
    tuner = tuner or _fresh(attempt, params, metric, slots=slots, channel=channel)
    trials = [_record(result, metric) for result in tuner.fit()]
    finished = [trial for trial in trials if trial["value"] is not None]
    if not finished:
        raise StageError(f"none of {len(trials)} trials reported {metric}; the first error: {trials[0]['error']}")
    best = max(finished, key=lambda trial: float(trial["value"]))
    return StageResult(
        outputs={
            "best_params": _write(scratch / "best_params", "best_params.json", best["params"]),
            "trials": _write(scratch / "trials", "trials.json", trials),
        },
        metrics=(Metric(name=metric, value=best["value"], num_samples=best["num_samples"]),),
    )


def _beginning(restored: tune.Tuner | None, params: TuneParams, metric: str, *, slots: int) -> Event:
    """How far the search is before it goes on, with the best that an earlier run found."""
    if restored is None:
        return Event(f"{params.num_trials} trials, {slots} at a time", done=0, total=params.num_trials)
    results = restored.get_results()
    text = f"{results.num_terminated} of {params.num_trials} trials finished, {slots} at a time"
    values = [result.metrics[metric] for result in results if metric in (result.metrics or {})]
    best = {metric: max(values)} if values else {}
    return Event(text, done=results.num_terminated, total=params.num_trials, metrics=best)


def _restored(attempt: Attempt, channel: EventChannel) -> tune.Tuner | None:
    """The search as an earlier run left it, or None."""
    path = f"{_storage_uri(attempt)}/{_name(attempt)}"
    if not tune.Tuner.can_restore(path):
        return None
    trainable = _trainable(attempt, channel)
    return tune.Tuner.restore(path, trainable=trainable, resume_unfinished=True, restart_errored=True)


def _fresh(attempt: Attempt, params: TuneParams, metric: str, *, slots: int, channel: EventChannel) -> tune.Tuner:
    return tune.Tuner(
        _trainable(attempt, channel),
        param_space={
            path: getattr(tune, distribution.name)(*distribution.args) for path, distribution in params.space.items()
        },
        tune_config=tune.TuneConfig(
            metric=metric,
            mode="max",
            num_samples=params.num_trials,
            max_concurrent_trials=slots,
            search_alg=_algorithm(params, attempt.seed),
            scheduler=_scheduler(params),
        ),
        run_config=tune.RunConfig(
            name=_name(attempt),
            storage_path=_storage_uri(attempt),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=MAX_TRIAL_FAILURES),
        ),
    )


def _storage_uri(attempt: Attempt) -> str:
    return open_store(attempt.store_uri).storage_uri(attempt.training)


def _name(attempt: Attempt) -> str:
    return f"tune-{attempt.key[:8]}"


def _trainable(attempt: Attempt, channel: EventChannel) -> Any:
    """A trial as Tune runs it: in the trial's own process, or as the driver of a group of workers."""
    resources = attempt.resources
    if attempt.workers > 1 or resources.labels:
        # The driver takes no CPU: one CPU each would let drivers starve the workers that they wait for.
        trial = tune.with_parameters(_run_group_trial, attempt=attempt, channel=channel)
        return tune.with_resources(trial, {"cpu": 0, "memory": 100 * 2**20})
    trial = tune.with_parameters(_run_trial, attempt=attempt, channel=channel)
    memory = {"memory": resources.memory_gib_per_worker * 2**30} if resources.memory_gib_per_worker else {}
    return tune.with_resources(trial, {"cpu": resources.cpus_per_worker, "gpu": resources.gpus_per_worker, **memory})


def _run_trial(config: dict[str, JsonValue], *, attempt: Attempt, channel: EventChannel) -> None:
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    place = Place(
        rank=0,
        world_size=1,
        device=device,
        tell=lambda metrics: tune.report(dict(metrics)),
        hear_rank_zero=lambda number: number,
        is_leaving=is_leaving,
    )
    trial = _trial_attempt(attempt, config)
    with _ending(trial, channel, config):
        tell_result(place, run_pipeline(trial, place, channel, closes_stage=False, label=_label(config)))


def _run_group_trial(config: dict[str, JsonValue], *, attempt: Attempt, channel: EventChannel) -> None:
    trial = _trial_attempt(attempt, config)
    with _ending(trial, channel, config):
        fit(trial, channel, closes_stage=False, callbacks=(TuneReportCallback(),), label=_label(config))


@contextmanager
def _ending(trial: Attempt, channel: EventChannel, config: Mapping[str, JsonValue]) -> Iterator[None]:
    """Tell the trial's end, also where the scheduler stops it before its last epoch.

    A trial of an interrupted run rests when its checkpoint is committed: Tune would start the next one in its place,
    or note it as failed, while a trial that ends with its driver is taken up again.
    """
    try:
        yield
    except Exception:
        if channel.is_stopping():
            channel.rest(trial.stage)
            threading.Event().wait()
        raise
    finally:
        channel.send(trial.says(Event(f"{_label(config)}ended", done=1, total=1)))


def _trial_attempt(attempt: Attempt, config: Mapping[str, JsonValue]) -> Attempt:
    trial = tune.get_context().get_trial_id()
    training = f"{attempt.training}/trials/{trial}"
    return replace(attempt, trial=trial, params=attempt.params.overlay(config), training=training)


def _label(config: Mapping[str, JsonValue]) -> str:
    """What stands before the events of a trial: the values that it tries."""
    values = (
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in config.items()
    )
    return f"trial {' '.join(values)}: "


def _algorithm(params: TuneParams, seed: int) -> Searcher | SearchAlgorithm:
    points = [dict(point) for point in params.initial] or None
    match params.algorithm:
        case "optuna":
            return OptunaSearch(seed=seed, points_to_evaluate=points)
        case "random":
            return BasicVariantGenerator(random_state=seed, points_to_evaluate=points)


def _scheduler(params: TuneParams) -> TrialScheduler:
    match params.scheduler:
        case "asha":
            return ASHAScheduler(
                time_attr="epoch",
                max_t=NO_LIMIT,
                grace_period=params.grace_period,
                reduction_factor=params.reduction_factor,
            )
        case "none":
            return FIFOScheduler()


def _record(result: tune.Result, metric: str) -> dict[str, Any]:
    """What is published of a trial. Raises the JobError that ended it: no other trial would fare better."""
    error = getattr(result.error, "cause", None) or result.error
    if isinstance(error, JobError):
        raise error
    metrics = result.metrics or {}
    return {
        "params": result.config,
        "value": metrics.get(metric),
        "epoch": metrics.get("epoch"),
        "num_samples": metrics.get("num_samples"),
        "error": None if error is None else str(error).strip().splitlines()[0],
    }


def _write(folder: Path, name: str, content: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False))
    return folder
