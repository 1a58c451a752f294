"""What an interrupted training needs to go on: one file of tensors and plain values, read without executing anything.

mmengine's own checkpoints hold log histories that only a full unpickling restores, and mmengine falls back to one.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.errors import CheckpointError
from pipelines.openmmlab.library import Runner, is_model_wrapper

FILE_NAME = "state.pth"


@dataclass(frozen=True)
class Position:
    """How far a training has come."""

    epoch: int
    """Epochs done; always 0 when a training counts iterations."""
    iteration: int
    metrics: Mapping[str, float]
    """Of the validation at this point; empty without one."""
    num_samples: int
    """Images of a validation."""


def save_state(runner: Runner, directory: Path, position: Position) -> None:
    """Write all of `runner`'s state to `directory`, in the layout that `Runner.resume` reads."""
    directory.mkdir(parents=True)
    state = {
        "meta": {
            "epoch": position.epoch,
            "iter": position.iteration,
            "metrics": dict(position.metrics),
            "num_samples": position.num_samples,
            "dataset_meta": runner.train_dataloader.dataset.metainfo,
        },
        "state_dict": weights_of(runner),
        "optimizer": runner.optim_wrapper.state_dict(),
        "param_schedulers": [scheduler.state_dict() for scheduler in runner.param_schedulers],
        "message_hub": {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}},
    }
    torch.save(state, directory / FILE_NAME)


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote, on the CPU; raises CheckpointError for anything else."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        position_of(state)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError) as err:
        raise CheckpointError(
            f"{path}: not a training state of this stage: {err}; delete the stage's training state to start it afresh"
        ) from err
    # The Runner would execute a config found here; `save_state` writes none.
    state["meta"].pop("config", None)
    return state


def position_of(state: Mapping[str, Any]) -> Position:
    meta = state["meta"]
    return Position(
        epoch=meta["epoch"], iteration=meta["iter"], metrics=meta["metrics"], num_samples=meta["num_samples"]
    )


def weights_of(runner: Runner) -> dict[str, Tensor]:
    """The model's tensors on the CPU, by name."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}


def put_weights(runner: Runner, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Load `weights` into the model; raises CheckpointError, with names and shapes, unless they fit exactly."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as err:
        raise CheckpointError(f"{where}: {err}") from err
