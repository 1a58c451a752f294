"""The training state that a stage writes to resume from: weights, their average, optimizer, scaler,
progress. Reads no pickle.

It holds no generator states. Every update seeds the generators again from the seed, its number and
the rank, and every image seeds the generators for its augmentation. So a resume is exact after any
update and for any number of ranks.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer

from orchestrator.contract import StageContext
from orchestrator.errors import CheckpointError
from pipelines.pretrain.progress import Progress
from pipelines.pretrain.trainer import Trainer

WEIGHTS_FILE = "model.safetensors"
EMA_FILE = "ema.safetensors"
STATE_FILE = "state.pt"


def save_state(directory: Path, progress: Progress, trainer: Trainer) -> None:
    """Write the state to `directory`, which is created."""
    directory.mkdir(parents=True)
    _save_weights(trainer.unwrapped, directory / WEIGHTS_FILE)
    if trainer.ema is not None:
        _save_weights(trainer.ema.module, directory / EMA_FILE)
    state = {
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "progress": progress.to_dict(),
    }
    torch.save(state, directory / STATE_FILE)


def load_state(directory: Path, trainer: Trainer) -> Progress:
    """Load the state in `directory` into `trainer` and return its progress.

    Raises CheckpointError if the state is unreadable or belongs to another model.
    """
    try:
        state: dict[str, Any] = torch.load(
            directory / STATE_FILE, map_location="cpu", weights_only=True
        )
        trainer.unwrapped.load_state_dict(load_file(directory / WEIGHTS_FILE))
        if trainer.ema is not None:
            trainer.ema.module.load_state_dict(load_file(directory / EMA_FILE))
        _load_optimizer(trainer.optimizer, state["optimizer"])
        trainer.scaler.load_state_dict(state["scaler"])
        return Progress.from_dict(state["progress"])
    except (
        OSError,
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
    ) as err:
        raise CheckpointError(
            f"the training state does not fit this stage: {err}; run again with --force STAGE to "
            "train from the start"
        ) from err


def _load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load the optimizer's state, but keep `fused` and `foreach` as the job sets them: torch would
    restore the checkpoint's values."""
    computed = [
        {name: group[name] for name in ("fused", "foreach")} for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, computed, strict=True):
        group.update(own)


def _save_weights(model: nn.Module, path: Path) -> None:
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()},
        path,
    )


@dataclass
class Checkpoints:
    """Writes the states of `trainer`; every rank has an instance, but only rank 0 writes."""

    context: StageContext
    trainer: Trainer
    last: str = "no checkpoint has been written yet"
    """Describes the last checkpoint, for an error."""

    def load(self) -> Progress:
        """Load the state of an earlier attempt into the trainer and return its progress, or an
        empty progress for a fresh start."""
        if self.context.resume_dir is None:
            return Progress()
        progress = load_state(self.context.resume_dir, self.trainer)
        self._remember(progress)
        return progress

    def write(self, progress: Progress) -> Path | None:
        """Write a new checkpoint and return its folder; None on ranks other than 0."""
        self._remember(progress)
        if self.context.rank != 0:
            return None
        directory = (
            self.context.work_dir / f"epoch_{progress.epoch:04d}_update_{progress.num_updates:06d}"
        )
        save_state(directory, progress, self.trainer)
        return directory

    def _remember(self, progress: Progress) -> None:
        part = f", update {progress.num_updates}" if progress.num_updates else ""
        self.last = f"the last checkpoint is after epoch {progress.epoch}{part}"
