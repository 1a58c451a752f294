"""Several workers of one attempt, as a group on Ray Train, whose collectives connect them."""

from __future__ import annotations

import os
import tempfile
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
from orchestrator.cluster.failures import ROOM_IS_TAKEN, LostAttempt, LostAttemptError, first_line
from orchestrator.cluster.worker import WorkerRank, report_result, run_pipeline

# 60: two busy cores took 57 s to start a group.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
# 2: a report waits for the next look, so that epochs of a second took two, and a stage ended
# seconds after its work.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
# 5: some clouds give 30 s of notice.
os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
# Ray's own barriers (report, resume, stop) wait for ever by default, and rank 0 may fetch or upload
# a checkpoint meanwhile: an hour is longer than that takes. One number for all stages, since Ray
# reads it from the environment.
os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "3600")


def run(
    attempt: Attempt,
    channel: EventChannel,
    *,
    closes_stage: bool,
    callbacks: tuple[ray.train.UserCallback, ...] = (),
    label: str = "",
) -> None:
    """Run one attempt on fresh workers; resume state is the store's, so Ray keeps none. Raises
    LostAttemptError."""
    # Its Train page is empty otherwise; read by the process that calls trainer.fit.
    if has_dashboard():
        os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")
    # Ray's controller, which runs on this machine too, writes a marker and a snapshot there;
    # nothing reads them again.
    with tempfile.TemporaryDirectory(prefix="orchestrator-ray-train-") as storage:
        trainer = _trainer(
            attempt,
            channel,
            Path(storage),
            closes_stage=closes_stage,
            callbacks=callbacks,
            label=label,
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as err:
            raise LostAttemptError(loss_of(err)) from err


def loss_of(err: ray.train.TrainingFailedError) -> LostAttempt:
    if isinstance(err, ray.train.WorkerGroupError):
        return LostAttempt(err.worker_failures)
    if isinstance(err, PreemptionError):
        return LostAttempt({}, is_move=True, cause="a machine is leaving")
    failure = getattr(err, "controller_failure", err)
    if isinstance(failure, WorkerGroupStartupTimeoutError):
        return LostAttempt({}, is_move=True, cause=ROOM_IS_TAKEN)
    return LostAttempt({}, cause=first_line(failure))


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
    gpus = {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}
    memory = (
        {"memory": resources.memory_bytes_per_worker} if resources.memory_bytes_per_worker else {}
    )
    # Ray hands it to timedelta, but types it as whole seconds.
    timeout_s = max(1, round(resources.collective_timeout_min * 60))
    return TorchTrainer(
        _train_loop,
        train_loop_config={
            "attempt": attempt,
            "channel": channel,
            "closes_stage": closes_stage,
            "label": label,
        },
        torch_config=TorchConfig(backend=resources.backend, timeout_s=timeout_s),
        scaling_config=ScalingConfig(
            num_workers=attempt.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker={"CPU": float(resources.cpus_per_worker), **gpus, **memory},
            label_selector=resources.labels or None,
        ),
        run_config=RunConfig(
            name=attempt.ray_name,
            storage_path=str(storage),
            # Each loss is ours to judge: Ray would start again by itself, in silence and with as
            # many workers.
            failure_config=FailureConfig(
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
            callbacks=list(callbacks),
        ),
    )


def _train_loop(config: dict[str, Any]) -> None:
    """What each worker of the group runs."""
    context = ray.train.get_context()
    # ray.train.get_preemption_info is a collective, which no background thread may call; this is
    # what it reads.
    preemption = get_train_context().preemption_context
    worker = WorkerRank(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=str(ray.train.torch.get_device()) if torch.cuda.is_available() else "cpu",
        report_metrics=lambda metrics: ray.train.report(dict(metrics)),
        broadcast_from_rank_zero=broadcast_from_rank_zero,
        is_leaving=lambda: preemption.preemption_info is not None,
    )
    closes_stage: bool = config["closes_stage"]
    result = run_pipeline(
        config["attempt"],
        worker,
        config["channel"],
        closes_stage=closes_stage,
        label=config["label"],
    )
    if not closes_stage:
        report_result(worker, result)
