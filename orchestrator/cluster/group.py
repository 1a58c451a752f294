"""Run the workers of one attempt as a group on Ray Train, connected by its collectives."""

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
from orchestrator.cluster.log_capture import captured_output
from orchestrator.cluster.worker import WorkerRank, report_result, run_pipeline

# Ray's default is 60: two busy cores took 57 s to start a group.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
# Ray's default is 2: a report waits for the next check, so epochs of one second took two, and a
# stage ended seconds after its work.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
# Ray's default is 5: some clouds give only 30 s of notice.
os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
# Ray's own barriers (report, resume, stop) wait forever by default. Rank 0 may fetch or upload a
# checkpoint meanwhile, which takes less than an hour. It is one number for all stages, because Ray
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
    """Run one attempt on new workers. Raises LostAttemptError.

    The resume state is in the store, so Ray keeps none.
    """
    # Otherwise Ray's API lists no training. Ray reads this in the process that calls fit.
    if has_dashboard():
        os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")
    # Ray's controller, also on this machine, writes a marker and a snapshot there. Nothing reads
    # them.
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
    # TorchConfig declares timeout_s as an int, although Ray passes it to timedelta.
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
            label_selector=[dict(selector) for selector in attempt.selectors],
        ),
        run_config=RunConfig(
            name=attempt.ray_name,
            storage_path=str(storage),
            # decide_retry() handles each loss: Ray would restart by itself, without a message and
            # with the same number of workers.
            failure_config=FailureConfig(
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
            callbacks=list(callbacks),
        ),
    )


def _train_loop(config: dict[str, Any]) -> None:
    """The function that each worker of the group runs."""
    context = ray.train.get_context()
    # ray.train.get_preemption_info is a collective, which a background thread must not call. This
    # is the value that it reads.
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
    attempt: Attempt = config["attempt"]
    with captured_output(attempt, rank=worker.rank, world_size=worker.world_size):
        result = run_pipeline(
            attempt, worker, config["channel"], closes_stage=closes_stage, label=config["label"]
        )
    if not closes_stage:
        report_result(worker, result)
