"""Runs mmengine's Runner in a worker of a stage: on the existing process group, with logs in files
and safe resumes."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.artifact import Metric
from orchestrator.contract import StageContext
from pipelines.openmmlab.kernels import compiled_focal_loss
from pipelines.openmmlab.library import (
    Config,
    MMDistributedDataParallel,
    MMLogger,
    Runner,
    Scope,
    load_library,
    quiet_stdout,
    revert_sync_batchnorm,
)
from pipelines.openmmlab.loop import LoopConfig, StageLoop
from pipelines.openmmlab.progress import TrainingSchedule, ValidationHook, num_val_images
from pipelines.openmmlab.state import (
    FILE_NAME,
    load_state,
    position_of,
    put_state,
    put_weights,
    unwrapped,
    weights_of,
)
from pipelines.training.compiling import compile_in_place
from pipelines.training.distributed import check_equal_on_ranks, let_group_go
from pipelines.training.metrics import training_metrics
from pipelines.training.speed import SpeedMeter


@dataclass(frozen=True)
class TrainingSetup:
    """The settings of a training that a kind passes to the Runner."""

    scope: Scope
    config: Mapping[str, Any]
    """Model, loaders, optimizer, schedulers and evaluator, in the form of mmengine's Config."""
    schedule: TrainingSchedule
    metrics_of: Callable[[Mapping[str, float]], Mapping[str, float]]
    """Maps the evaluator's values to our metrics. Raises if a value is missing or NaN."""


@dataclass(frozen=True)
class Validation:
    """The settings of a finished model's evaluation that a kind passes to the Runner."""

    scope: Scope
    config: Mapping[str, Any]
    """Model, val loader and evaluator, in the form of mmengine's Config."""
    weights: Mapping[str, Tensor]
    metrics_of: Callable[[Mapping[str, float]], Mapping[str, float]]
    """As in TrainingSetup."""


@dataclass(frozen=True)
class Measured:
    """The metrics of a validation, over `num_samples` images."""

    metrics: Mapping[str, float]
    num_samples: int

    def as_metrics(self, names: Iterable[str]) -> tuple[Metric, ...]:
        """The metrics of these `names`, in %, over the val images."""
        return tuple(
            Metric(name=name, value=self.metrics[name], num_samples=self.num_samples)
            for name in names
        )


@dataclass(frozen=True)
class Trained(Measured):
    """The model after the last iteration, and what its validation measured."""

    weights: Mapping[str, Tensor]
    training: tuple[Metric, ...] = ()
    """Metrics of the training itself, such as its speed."""


def finished(context: StageContext, schedule: TrainingSchedule) -> Trained | None:
    """The model of an earlier attempt that finished training, or None if training must continue."""
    state_path = _state_path(context)
    if state_path is None:
        return None
    state = load_state(state_path)
    position = position_of(state)
    done = position.epoch if schedule.unit == "epoch" else position.iteration
    if done < schedule.total or not position.is_validated:
        return None
    speed = SpeedMeter(position.trained_s, position.waited_s)
    training = _training_metrics(context, position.metrics, position.iteration, speed)
    return Trained(position.metrics, position.num_samples, state["weights"], training)


def _training_metrics(
    context: StageContext, metrics: Mapping[str, float], iterations: int, speed: SpeedMeter
) -> tuple[Metric, ...]:
    num_images = iterations * context.params.batch_size
    images_per_s = num_images / max(speed.trained_s, 1e-9)
    return training_metrics(
        loss=metrics.get("loss"), images_per_s=images_per_s, data_wait=speed.data_wait
    )


def train(context: StageContext, training: TrainingSetup) -> Trained:
    """Trains from the start, or from the state in `context.resume_dir`. Every rank returns the
    same.

    If asked to stop, writes a checkpoint and raises StoppedError.
    """
    _load(training.scope)
    with quiet_stdout(), ExitStack() as compiled:
        runner = StageRunner.from_cfg(_training_config(context, training))
        runner.plan = LoopConfig(context, training.schedule, training.metrics_of)
        if context.params.compile and compile_in_place(
            parts_of_tensors(unwrapped(runner.model)), context
        ):
            compiled.enter_context(compiled_focal_loss())
        try:
            runner.train()
            check_equal_on_ranks(runner.model, when="after training")
            loop = runner.train_loop
            training_of_loop = _training_metrics(context, loop.metrics, loop.iter, loop.speed)
            return Trained(
                loop.metrics, num_val_images(runner), weights_of(runner), training_of_loop
            )
        finally:
            runner.close()


def parts_of_tensors(model: Any) -> list[nn.Module]:
    """The modules that `compile: true` compiles, in addition to the focal loss.

    The heads loop over lists of objects, which the compiler cannot optimise.
    """
    return [model.backbone, *([model.neck] if model.with_neck else [])]


def validate(context: StageContext, validation: Validation) -> Measured:
    """Runs the same validation as a training, without training. Every rank returns the same.

    Raises CheckpointError, with names and shapes, unless the weights fit the model.
    """
    _load(validation.scope)
    with quiet_stdout():
        runner = StageRunner.from_cfg(_common_config(context, validation.scope, validation.config))
        put_weights(runner, validation.weights, where="checkpoint")
        runner.register_hook(ValidationHook(context))
        try:
            values = runner.val()
            return Measured(validation.metrics_of(values), num_val_images(runner))
        finally:
            runner.close()


def _load(scope: Scope) -> None:
    load_library(scope)
    multiprocessing.set_forkserver_preload(["pipelines.openmmlab.library", f"{scope}.datasets"])


class StageRunner(Runner):  # type: ignore[misc]  # untyped base
    """mmengine's Runner with changes for a worker: device, loop, logs, reading of checkpoints, and
    a `close` method."""

    plan: LoopConfig
    """Settings of the training loop. Set them before the training starts."""

    def build_logger(
        self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: object
    ) -> MMLogger:
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                handler.setStream(sys.stderr)
        return logger

    def wrap_model(
        self, model_wrapper_cfg: Mapping[str, object] | None, model: nn.Module
    ) -> nn.Module:
        """`model` on its device, wrapped in DDP if several workers train it. In an evaluation each
        worker has its own copy.

        mmengine uses LOCAL_RANK as the device. That fails on CPUs, and if each worker sees only one
        GPU.
        """
        device = torch.device(self.cfg.device)
        model = model.to(device)
        if not self.distributed or self.cfg.get("train_cfg") is None:
            reverted: nn.Module = revert_sync_batchnorm(model)
            return reverted
        is_cpu = device.type == "cpu"
        wrapped: nn.Module = MMDistributedDataParallel(
            module=model,
            device_ids=None if is_cpu else [device],
            broadcast_buffers=False,
            # Dense detectors skip the backbone's first map, whose norm then has no gradient. Also,
            # without this option DDP changes the layout of its gradient buckets after the first
            # backward pass. With three or more ranks the order in which they sum an element depends
            # on its position, so a resumed training would not be bitwise equal to a straight one.
            find_unused_parameters=True,
        )
        return wrapped

    def build_train_loop(self, loop: object) -> StageLoop:
        """Our loop, for any config. mmengine calls this more than once."""
        return (
            loop
            if isinstance(loop, StageLoop)
            else StageLoop(self, self._train_dataloader, self.plan)
        )

    def resume(self, filename: str, *args: object, **kwargs: object) -> None:
        """Loads the whole state. Unlike mmengine's method it never unpickles objects and never
        skips a tensor."""
        state = load_state(Path(filename))
        put_state(self, state, where=filename)
        self.train_loop.resume_at(position_of(state))

    def dump_config(self) -> None:
        """Does nothing: the stage's outputs hold the model's config as JSON."""

    def _log_env(self, env_cfg: object) -> None:
        """Does nothing: a stage's manifest records its provenance. mmengine's method starts
        compilers to get their versions."""

    def close(self) -> None:
        """Closes the log files and releases everything that references the process group.

        Runner, loops and hooks reference each other, so only the garbage collector can free them
        and DistributedDataParallel.
        """
        for handler in self.logger.handlers[:]:
            self.logger.removeHandler(handler)  # else the next log call writes to a closed file
            handler.close()
        self._hooks.clear()
        self.model = self.optim_wrapper = self.param_schedulers = self._train_loop = (
            self._val_loop
        ) = None
        gc.collect()
        let_group_go()


def _state_path(context: StageContext) -> Path | None:
    return context.resume_dir / FILE_NAME if context.resume_dir else None


def _training_config(context: StageContext, training: TrainingSetup) -> Config:
    state_path = _state_path(context)
    is_epoch = training.schedule.unit == "epoch"
    config = {
        **training.config,
        "resume": state_path is not None,
        "load_from": str(state_path) if state_path else None,
        "train_cfg": {"type": StageLoop.__name__},
    }
    return _common_config(context, training.scope, config, is_epoch=is_epoch)


def _common_config(
    context: StageContext, scope: Scope, config: Mapping[str, Any], *, is_epoch: bool = True
) -> Config:
    """`config` with the settings that every Runner needs. `is_epoch`: whether the log counts
    epochs."""
    if context.device != "cpu":
        torch.cuda.set_device(context.device)
        # mmengine's loggers use it to look up the device among those that this worker sees, which
        # may be only one.
        os.environ["LOCAL_RANK"] = str(torch.cuda.current_device())
    return Config(
        {
            **config,
            "default_scope": scope,
            # mmengine keeps loggers and scopes under this name as long as the process lives.
            "experiment_name": uuid.uuid4().hex,
            "work_dir": str(context.work_dir),
            "device": context.device,
            "launcher": "pytorch" if context.world_size > 1 else "none",
            "env_cfg": {"mp_cfg": {"mp_start_method": multiprocessing.get_start_method()}},
            "randomness": {"seed": context.seed, "diff_rank_seed": True},
            "val_cfg": {"type": "ValLoop"},
            "default_hooks": {
                "checkpoint": None,
                "logger": {"type": "LoggerHook", "log_metric_by_epoch": is_epoch},
            },
            "log_processor": {"type": "LogProcessor", "window_size": 50, "by_epoch": is_epoch},
        }
    )
