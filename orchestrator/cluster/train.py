"""Stages on Ray Train: a group of workers, tried again when one of them is lost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2.api.exceptions import PreemptionError

from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.connection import has_dashboard
from orchestrator.cluster.events import EventChannel
from orchestrator.cluster.room import Room
from orchestrator.cluster.worker import Place, is_loss_of_peer, is_stuck, run_pipeline, tell_result
from orchestrator.contract import Event
from orchestrator.errors import (
    IntegrityError,
    MachineError,
    OrchestratorError,
    StageError,
    StoppedError,
    StoreRefusedError,
    UnreachableError,
)
from orchestrator.spec import Resources

MAX_ATTEMPTS = 3
"""Tries at a stage whose workers are lost. A machine that leaves with notice costs none of them."""
MAX_MOVES = 100
"""Attempts that may end because a machine leaves, in one run: spot machines do, over and over."""

os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")  # 60: two busy cores took 57 s to start a group
# 2: a report waits for the next look, so that epochs of a second took two, and a stage ended seconds after its work.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")  # 5: some clouds give 30 s of notice
# Ray's own barriers (report, resume, stop) wait for ever by default, and rank 0 may fetch or upload a checkpoint
# meanwhile: an hour is longer than that takes. One number for all stages, since Ray reads it from the environment.
os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "3600")


@dataclass(frozen=True)
class Retry:
    """Start the group again from the last checkpoint."""

    why: str
    is_move: bool = False
    """Nothing was wrong with the attempt, so it is none of MAX_ATTEMPTS."""


@dataclass(frozen=True)
class Fail:
    """Give the stage up."""

    error: OrchestratorError


@dataclass(frozen=True)
class Loss:
    """How an attempt ended before its stage did."""

    failures: Mapping[int, BaseException]
    """By rank; a machine that leaves may take the workers' words with it."""
    is_move: bool = False
    """Ray says that a machine left, or that the room was gone when the group wanted it."""
    cause: str = "no reason given"
    """Where no worker told one."""


def loss_of(err: ray.train.TrainingFailedError) -> Loss:
    if isinstance(err, ray.train.WorkerGroupError):
        return Loss(err.worker_failures)
    if isinstance(err, PreemptionError):
        return Loss({}, is_move=True, cause="a machine is leaving")
    failure = getattr(err, "controller_failure", err)
    if isinstance(failure, WorkerGroupStartupTimeoutError):
        return Loss({}, is_move=True, cause="the room for the workers was taken by others")
    return Loss({}, cause=_first_line(failure))


def judge(
    loss: Loss, *, num_lost: int, num_moves: int = 0, is_interrupted: bool = False, timeout_min: float = 10
) -> Retry | Fail:
    """What to do about the loss of an attempt, before which `num_lost` were lost and `num_moves` had to move.

    A lost worker is worth another try, and so is a store that was out of reach for a while. Who stops because its
    machine leaves only moves on. An interrupted run tries nothing again.
    """
    lasting = lasting_error(loss.failures)
    if lasting is not None:
        return Fail(lasting)
    errors = [failure for failure in loss.failures.values() if isinstance(failure, OrchestratorError)]
    stopped = next((error for error in errors if isinstance(error, StoppedError)), None)
    why = _why(loss, timeout_min)
    if is_interrupted:
        return Fail(stopped or StoppedError(f"{why}; not tried again, since the run was interrupted"))
    if stopped or loss.is_move:
        moved = Retry("a machine is leaving" if stopped else loss.cause, is_move=True)
        return moved if num_moves < MAX_MOVES else Fail(StageError(f"{moved.why}, for the {num_moves + 1}th time"))
    if num_lost + 1 < MAX_ATTEMPTS:
        return Retry(why)
    return Fail(
        errors[0]
        if errors
        else StageError(f"lost workers in each of {MAX_ATTEMPTS} attempts, the last time: {why.removeprefix('lost ')}")
    )


def lasting_error(failures: Mapping[int, BaseException]) -> OrchestratorError | None:
    """The first of the workers' `failures`, by rank, that another attempt would meet again."""
    errors = (failure for failure in failures.values() if isinstance(failure, OrchestratorError))
    return next((error for error in errors if not _may_pass(error)), None)


def _why(loss: Loss, timeout_min: float) -> str:
    if any(is_stuck(failure) for failure in loss.failures.values()):
        return f"workers waited more than {timeout_min:g} minutes for each other"
    # Who lost a peer tells of a broken connection, which is the effect and not the cause.
    gone = {rank: failure for rank, failure in loss.failures.items() if not is_loss_of_peer(failure)}
    lost = ", ".join(str(rank) for rank in sorted(gone)) or "unknown"
    cause = next((_first_line(failure) for failure in (gone or loss.failures).values()), loss.cause)
    return f"lost worker {lost}: {cause}"


def _first_line(failure: BaseException) -> str:
    return (str(failure).strip() or type(failure).__name__).splitlines()[0].rstrip(".")


def _may_pass(error: OrchestratorError) -> bool:
    """Whether the same attempt may succeed later: damaged bytes stay damaged, expired credentials expired."""
    lasts = isinstance(error, IntegrityError | StoreRefusedError | MachineError)
    return isinstance(error, UnreachableError | StoppedError) and not lasts


def train(attempt: Attempt, channel: EventChannel, room: Room) -> None:
    """Run the stage to its manifest.

    Raises the worker's OrchestratorError, StageError when all attempts fail, StoppedError in an interrupted run.
    """
    num_lost = num_moves = 0
    while True:
        attempt = _sized(replace(attempt, number=num_lost + num_moves + 1), room)
        channel.send(attempt.says(Event(f"starting {_counted(attempt.workers, 'worker')}{_of(room.counts)}")))
        try:
            fit(attempt, channel, closes_stage=True)
        except ray.train.TrainingFailedError as err:
            decision = judge(
                loss_of(err),
                num_lost=num_lost,
                num_moves=num_moves,
                is_interrupted=channel.is_stopping(),
                timeout_min=attempt.resources.collective_timeout_min,
            )
        else:
            return
        if isinstance(decision, Fail):
            raise decision.error
        num_lost, num_moves = num_lost + (not decision.is_move), num_moves + decision.is_move
        next_one = f"attempt {num_lost + num_moves + 1} of {MAX_ATTEMPTS + num_moves}"
        channel.send(attempt.says(Event(f"{decision.why}; {next_one}"), lost=decision.why))


def _sized(attempt: Attempt, room: Room) -> Attempt:
    workers = room.take(attempt)
    return replace(attempt, workers=workers, provenance={**attempt.provenance, "workers": workers})


def _of(counts: tuple[int, ...]) -> str:
    return f" ({counts[0]} to {counts[-1]})" if len(counts) > 1 else ""


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
    if has_dashboard():  # its Train page is empty otherwise; read by the process that calls trainer.fit
        os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")
    # Ray's controller, which runs on this machine too, writes a marker and a snapshot there; nothing reads them again.
    with tempfile.TemporaryDirectory(prefix="orchestrator-ray-train-") as storage:
        _trainer(attempt, channel, Path(storage), closes_stage=closes_stage, callbacks=callbacks, label=label).fit()


def _trainer(
    attempt: Attempt,
    channel: EventChannel,
    storage: Path,
    *,
    closes_stage: bool,
    callbacks: tuple[ray.train.UserCallback, ...],
    label: str,
) -> TorchTrainer:
    resources = attempt.resources
    # Ray hands it to timedelta, but types it as whole seconds.
    timeout_s = max(1, round(resources.collective_timeout_min * 60))
    return TorchTrainer(
        _train_loop,
        train_loop_config={"attempt": attempt, "channel": channel, "closes_stage": closes_stage, "label": label},
        torch_config=TorchConfig(backend=resources.backend, timeout_s=timeout_s),
        scaling_config=ScalingConfig(
            num_workers=attempt.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=resources_per_worker(resources),
            label_selector=resources.labels or None,
        ),
        run_config=RunConfig(
            name=attempt.ray_name,
            storage_path=str(storage),
            # Each loss is ours to judge: Ray would start again by itself, in silence and with as many workers.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            callbacks=list(callbacks),
        ),
    )


def resources_per_worker(resources: Resources) -> dict[str, float]:
    gpus = {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}
    memory = {"memory": resources.memory_gib_per_worker * 2**30} if resources.memory_gib_per_worker else {}
    return {"CPU": float(resources.cpus_per_worker), **gpus, **memory}


def _train_loop(config: dict[str, Any]) -> None:
    """What each worker of the group runs."""
    context = ray.train.get_context()
    # ray.train.get_preemption_info is a collective, which no background thread may call; this is what it reads.
    preemption = get_train_context().preemption_context
    place = Place(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=str(ray.train.torch.get_device()) if torch.cuda.is_available() else "cpu",
        tell=lambda metrics: ray.train.report(dict(metrics)),
        hear_rank_zero=broadcast_from_rank_zero,
        is_leaving=lambda: preemption.preemption_info is not None,
    )
    closes_stage: bool = config["closes_stage"]
    result = run_pipeline(config["attempt"], place, config["channel"], closes_stage=closes_stage, label=config["label"])
    if not closes_stage:
        tell_result(place, result)
