"""Stages on Ray Train: a group of workers, tried again when one of them is lost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig, TorchTrainer

from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.events import EventChannel
from orchestrator.cluster.worker import Place, run_pipeline, tell_result
from orchestrator.contract import Event
from orchestrator.errors import IntegrityError, OrchestratorError, StageError, UnreachableError
from orchestrator.spec import Resources
from orchestrator.store import open_store

MAX_ATTEMPTS = 3
COLLECTIVE_TIMEOUT_S = 600
"""A stuck collective ends the attempt after ten minutes; torch's default is thirty."""

os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")  # 60: two busy cores took 57 s to start a group


@dataclass(frozen=True)
class Retry:
    """Start the group again from the last checkpoint."""

    why: str


@dataclass(frozen=True)
class Fail:
    """Give the stage up."""

    error: OrchestratorError


def judge(failures: Mapping[int, BaseException], *, attempt: int) -> Retry | Fail:
    """What to do about the failures of an attempt's workers, by rank.

    A lost worker is worth another try, and so is a store that was out of reach for a while.
    """
    errors = [failure for failure in failures.values() if isinstance(failure, OrchestratorError)]
    lasting = [error for error in errors if not _may_pass(error)]
    if lasting:
        return Fail(lasting[0])
    lost = ", ".join(str(rank) for rank in sorted(failures)) or "unknown"
    cause = next((str(failure).strip().splitlines()[0].rstrip(".") for failure in failures.values()), "no reason given")
    if attempt < MAX_ATTEMPTS:
        return Retry(f"lost worker {lost}: {cause}")
    return Fail(
        errors[0]
        if errors
        else StageError(f"lost workers in each of {MAX_ATTEMPTS} attempts, the last time worker {lost}: {cause}")
    )


def _may_pass(error: OrchestratorError) -> bool:
    """Whether the same attempt may succeed later: damaged bytes stay damaged."""
    return isinstance(error, UnreachableError) and not isinstance(error, IntegrityError)


def train(attempt: Attempt, channel: EventChannel) -> None:
    """Run the stage to its manifest. Raises the worker's OrchestratorError, or StageError when all attempts fail."""
    for number in range(1, MAX_ATTEMPTS + 1):
        attempt = replace(attempt, number=number)
        channel.send(attempt.says(Event(f"starting {_counted(attempt.resources.workers, 'worker')}")))
        try:
            fit(attempt, channel, closes_stage=True)
        except ray.train.WorkerGroupError as err:
            decision = judge(err.worker_failures, attempt=number)
        except ray.train.ControllerError as err:
            decision = judge({}, attempt=number) if number < MAX_ATTEMPTS else Fail(StageError(str(err)))
        else:
            return
        if isinstance(decision, Fail):
            raise decision.error
        event = Event(f"{decision.why}; attempt {number + 1} of {MAX_ATTEMPTS}")
        channel.send(attempt.says(event, lost=decision.why))


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def fit(
    attempt: Attempt,
    channel: EventChannel,
    *,
    closes_stage: bool,
    callbacks: tuple[ray.train.UserCallback, ...] = (),
    label: str = "",
) -> None:
    """One try on a fresh group of workers; resume state is the store's, so Ray keeps none. Raises Ray's errors."""
    resources = attempt.resources
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={"attempt": attempt, "channel": channel, "closes_stage": closes_stage, "label": label},
        torch_config=TorchConfig(backend=resources.backend, timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=resources_per_worker(resources),
            label_selector=resources.labels or None,
        ),
        run_config=RunConfig(
            name=f"{attempt.kind}-{attempt.key[:8]}",
            storage_path=open_store(attempt.store_uri).storage_uri(attempt.training),
            failure_config=FailureConfig(max_failures=0),
            callbacks=list(callbacks),
        ),
    )
    trainer.fit()


def resources_per_worker(resources: Resources) -> dict[str, float]:
    gpus = {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}
    memory = {"memory": resources.memory_gib_per_worker * 2**30} if resources.memory_gib_per_worker else {}
    return {"CPU": float(resources.cpus_per_worker), **gpus, **memory}


def _train_loop(config: dict[str, Any]) -> None:
    """What each worker of the group runs."""
    context = ray.train.get_context()
    place = Place(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=str(ray.train.torch.get_device()) if torch.cuda.is_available() else "cpu",
        tell=lambda metrics: ray.train.report(dict(metrics)),
        hear_rank_zero=broadcast_from_rank_zero,
    )
    closes_stage: bool = config["closes_stage"]
    result = run_pipeline(config["attempt"], place, config["channel"], closes_stage=closes_stage, label=config["label"])
    if not closes_stage:
        tell_result(place, result)
