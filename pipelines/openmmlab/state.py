"""The state from which an interrupted training resumes: one file of tensors and plain values, read
without executing code.

It holds no states of random generators. Every update seeds the generators again, from the seed, its
number and the rank; every image seeds the generators of its augmentation. So a checkpoint between
any two updates is exact, for any number of workers. mmengine's own checkpoints hold log histories
that need full unpickling, and mmengine does unpickle them.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.errors import CheckpointError
from pipelines.openmmlab.library import Runner, is_model_wrapper

FILE_NAME = "state.pth"


@dataclass(frozen=True)
class Position:
    """The progress of a training."""

    epoch: int = 0
    """Epochs done, including the validations due after them. Always 0 if the training counts
    iterations."""
    iteration: int = 0
    is_validated: bool = False
    """Whether the validation at this iteration is done, if one was due."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the last validation if it was at this iteration, else empty."""
    num_samples: int = 0
    """Number of images in a validation."""
    loss_sums: tuple[float, ...] = ()
    """Sum of the losses of each rank over the `num_losses` iterations since the last validation."""
    num_losses: int = 0
    trained_s: float = 0.0
    """Seconds of training so far, without validations and checkpoints."""
    waited_s: float = 0.0
    """The part of `trained_s` in which rank 0 waited for data."""

    def loss_sum_of(self, rank: int, *, world_size: int) -> float:
        """The loss sum of this rank. If the group had another size, each rank gets the mean of the
        sums."""
        if len(self.loss_sums) == world_size:
            return self.loss_sums[rank]
        return sum(self.loss_sums) / max(1, len(self.loss_sums))


def save_state(runner: Runner, directory: Path, position: Position) -> None:
    """Creates `directory` and writes the whole state of `runner` to it."""
    directory.mkdir(parents=True)
    state = {
        "position": asdict(position),
        "weights": weights_of(runner),
        "optimizer": runner.optim_wrapper.state_dict(),  # includes the loss scaler of fp16
        "param_schedulers": [scheduler.state_dict() for scheduler in runner.param_schedulers],
    }
    torch.save(state, directory / FILE_NAME)


def load_state(path: Path) -> dict[str, Any]:
    """Reads what `save_state` wrote, on the CPU. Raises CheckpointError for anything else."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        position_of(state)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError) as err:
        raise CheckpointError(
            f"{path}: not a training state of this stage: {err}; run again with --force STAGE to "
            "train from the start"
        ) from err
    return state


def put_state(runner: Runner, state: Mapping[str, Any], *, where: str) -> None:
    """Loads the result of `load_state` into `runner`, except the position. Raises CheckpointError
    unless it fits."""
    put_weights(runner, state["weights"], where=where)
    try:
        runner.optim_wrapper.load_state_dict(dict(state["optimizer"]))
        for scheduler, saved in zip(
            runner.param_schedulers, state["param_schedulers"], strict=True
        ):
            scheduler.load_state_dict(saved)
            # torch counts updates in this process here, to warn if a scheduler steps before any
            # update.
            scheduler.optimizer._global_step = position_of(state).iteration
    except (ValueError, KeyError, TypeError) as err:
        raise CheckpointError(
            f"{where}: the optimizer's state does not fit this stage: {err}; run again with "
            "--force STAGE to train from the start"
        ) from err


def position_of(state: Mapping[str, Any]) -> Position:
    return Position(**state["position"])


def weights_of(runner: Runner) -> dict[str, Tensor]:
    """The model's tensors on the CPU, by name."""
    return {
        name: tensor.detach().cpu() for name, tensor in unwrapped(runner.model).state_dict().items()
    }


def put_weights(runner: Runner, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Loads `weights` into the model. Raises CheckpointError, with names and shapes, unless they
    fit exactly."""
    try:
        unwrapped(runner.model).load_state_dict(weights, strict=True)
    except RuntimeError as err:
        raise CheckpointError(f"{where}: {err}") from err


def unwrapped(model: Any) -> Any:
    """The model without its distributed wrapper."""
    return model.module if is_model_wrapper(model) else model
