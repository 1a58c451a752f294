"""What an interrupted training needs to go on: one file of tensors and plain values, read without
executing anything.

It holds no generator states: every update seeds the generators anew, from the seed, its number and
the rank, and every image those of its augmentation. So a checkpoint between any two updates, and
for any number of workers, is exact. mmengine's own checkpoints hold log histories that only a full
unpickling restores, and mmengine falls back to one.
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
    """How far a training has come."""

    epoch: int = 0
    """Epochs done, with the validations that were due after them; always 0 when a training counts
    iterations."""
    iteration: int = 0
    is_validated: bool = False
    """Whether the validation at this iteration, had one been due, is done."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the last validation, if it was at this iteration; else empty."""
    num_samples: int = 0
    """Images of a validation."""
    loss_sums: tuple[float, ...] = ()
    """By rank, of the `num_losses` iterations since the last validation."""
    num_losses: int = 0
    trained_s: float = 0.0
    """Seconds of the whole training, without validations and checkpoints."""
    waited_s: float = 0.0
    """Part of it that rank 0 waited for data."""

    def loss_sum_of(self, rank: int, *, world_size: int) -> float:
        """This rank's, also where the group had another size: each rank then answers for the
        mean."""
        if len(self.loss_sums) == world_size:
            return self.loss_sums[rank]
        return sum(self.loss_sums) / max(1, len(self.loss_sums))


def save_state(runner: Runner, directory: Path, position: Position) -> None:
    """Write all of `runner`'s state to `directory`, which is made."""
    directory.mkdir(parents=True)
    state = {
        "position": asdict(position),
        "weights": weights_of(runner),
        "optimizer": runner.optim_wrapper.state_dict(),  # with the loss scaler, where there is one
        "param_schedulers": [scheduler.state_dict() for scheduler in runner.param_schedulers],
    }
    torch.save(state, directory / FILE_NAME)


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote, on the CPU; raises CheckpointError for anything else."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        position_of(state)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError) as err:
        raise CheckpointError(
            f"{path}: not a training state of this stage: {err}; delete the stage's training state "
            "to start from the beginning"
        ) from err
    return state


def put_state(runner: Runner, state: Mapping[str, Any], *, where: str) -> None:
    """Load what `load_state` read into `runner`, all but its position; raises CheckpointError
    unless it fits."""
    put_weights(runner, state["weights"], where=where)
    try:
        runner.optim_wrapper.load_state_dict(dict(state["optimizer"]))
        for scheduler, saved in zip(
            runner.param_schedulers, state["param_schedulers"], strict=True
        ):
            scheduler.load_state_dict(saved)
            # Of updates in this process, to warn of a scheduler that is stepped before any.
            scheduler.optimizer._global_step = position_of(state).iteration
    except (ValueError, KeyError, TypeError) as err:
        raise CheckpointError(
            f"{where}: the optimizer's state does not fit this stage: {err}"
        ) from err


def position_of(state: Mapping[str, Any]) -> Position:
    return Position(**state["position"])


def weights_of(runner: Runner) -> dict[str, Tensor]:
    """The model's tensors on the CPU, by name."""
    return {
        name: tensor.detach().cpu() for name, tensor in unwrapped(runner.model).state_dict().items()
    }


def put_weights(runner: Runner, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Load `weights` into the model; raises CheckpointError, with names and shapes, unless they fit
    exactly."""
    try:
        unwrapped(runner.model).load_state_dict(weights, strict=True)
    except RuntimeError as err:
        raise CheckpointError(f"{where}: {err}") from err


def unwrapped(model: Any) -> Any:
    """The model without the wrapper that exchanges its gradients."""
    return model.module if is_model_wrapper(model) else model
