"""mmengine's Runner in a worker of a stage: on the process group that is there, logging to files,
safe to resume."""

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
    """What a kind asks of the Runner."""

    scope: Scope
    config: Mapping[str, Any]
    """Model, loaders, optimizer, schedulers and evaluator, as mmengine's Config has them."""
    schedule: TrainingSchedule
    metrics_of: Callable[[Mapping[str, float]], Mapping[str, float]]
    """The evaluator's values -> ours; raises where there is no number."""


@dataclass(frozen=True)
class Validation:
    """What the evaluation of a finished model asks of the Runner."""

    scope: Scope
    config: Mapping[str, Any]
    """Model, val loader and evaluator, as mmengine's Config has them."""
    weights: Mapping[str, Tensor]
    metrics_of: Callable[[Mapping[str, float]], Mapping[str, float]]
    """As of a training."""


@dataclass(frozen=True)
class Measured:
    """The metrics of a validation, over `num_samples` images."""

    metrics: Mapping[str, float]
    num_samples: int

    def as_metrics(self, names: Iterable[str]) -> tuple[Metric, ...]:
        """In %, over the val images."""
        return tuple(
            Metric(name=name, value=self.metrics[name], num_samples=self.num_samples)
            for name in names
        )


@dataclass(frozen=True)
class Trained(Measured):
    """The model after the last iteration, and what its validation measured."""

    weights: Mapping[str, Tensor]
    training: tuple[Metric, ...] = ()
    """What the training reports of itself."""


def finished(context: StageContext, schedule: TrainingSchedule) -> Trained | None:
    """What an earlier attempt had trained to the end, or None when there is training left to do."""
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
    """Train from the start, or from where `context.resume_dir` stands; every rank returns the same.

    Raises StoppedError after a checkpoint when it is asked to stop.
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
    """What `compile: true` compiles, beside the focal loss.

    The heads go through lists of objects, of which a compiler makes nothing.
    """
    return [model.backbone, *([model.neck] if model.with_neck else [])]


def validate(context: StageContext, validation: Validation) -> Measured:
    """Run the validation that a training runs, and nothing of the training; every rank returns the
    same.

    Raises CheckpointError, with names and shapes, unless the weights are those of the model.
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
    """The Runner with what a worker needs otherwise: device, loop, log, the reading of checkpoints,
    and an end."""

    plan: LoopConfig
    """Of the training; to be set before it starts."""

    def build_logger(
        self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: object
    ) -> MMLogger:
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                handler.setStream(sys.stderr)
                handler.setLevel(logging.WARNING)
        return logger

    def wrap_model(
        self, model_wrapper_cfg: Mapping[str, object] | None, model: nn.Module
    ) -> nn.Module:
        """`model` on its device, in DDP where several workers train it; to measure it, each has its
        own.

        mmengine takes LOCAL_RANK for the device, which fails on CPUs and where each worker sees one
        GPU only.
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
            # Dense detectors skip the backbone's first map, whose norm then has no gradient. And
            # without it gradients are laid out anew after the first backward pass, and three ranks
            # or more sum an element in an order that depends on its position: a resumed training
            # would not be the straight one to the bit.
            find_unused_parameters=True,
        )
        return wrapped

    def build_train_loop(self, loop: object) -> StageLoop:
        """Ours, whatever the config says; mmengine asks for it more than once."""
        return (
            loop
            if isinstance(loop, StageLoop)
            else StageLoop(self, self._train_dataloader, self.plan)
        )

    def resume(self, filename: str, *args: object, **kwargs: object) -> None:
        """Never unpickles objects, and never leaves a tensor out, as mmengine's does."""
        state = load_state(Path(filename))
        put_state(self, state, where=filename)
        self.train_loop.begin_at(position_of(state))

    def dump_config(self) -> None:
        """Nothing: the stage's outputs hold the model's config as JSON."""

    def _log_env(self, env_cfg: object) -> None:
        """Nothing: a stage's manifest has its provenance, and this starts compilers to ask for
        their versions."""

    def close(self) -> None:
        """Let go of files, and of all that holds the process group.

        Runner, loops and hooks hold each other, so that only the garbage collector frees them, and
        with them DistributedDataParallel.
        """
        for handler in self.logger.handlers[:]:
            self.logger.removeHandler(handler)  # else who logs next writes to a closed file
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
    """What every Runner needs around the `config` of its work; `is_epoch`: whether its log counts
    epochs."""
    if context.device != "cpu":
        torch.cuda.set_device(context.device)
        # For mmengine's loggers, which look their device up among those that this worker sees; it
        # may see one alone.
        os.environ["LOCAL_RANK"] = str(torch.cuda.current_device())
    return Config(
        {
            **config,
            "default_scope": scope,
            # Loggers and scopes are kept by this name for the life of the process.
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
