"""What a stage writes at the end of an epoch to go on from there: weights, optimizer, scores. Reads no pickle.

It holds no generator states, since each epoch seeds the generators anew.
"""

from __future__ import annotations

import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from orchestrator.errors import CheckpointError
from pipelines.pretrain.engine import Scores

WEIGHTS_FILE = "model.safetensors"
STATE_FILE = "state.pt"


@dataclass(frozen=True)
class Progress:
    """Where training stands: epochs finished, their last mean loss and scores, and the broken images met so far."""

    epoch: int
    loss: float
    scores: Scores
    broken: tuple[str, ...]


def save_state(
    directory: Path, progress: Progress, *, model: nn.Module, optimizer: Optimizer, scaler: GradScaler
) -> None:
    """Write the state to `directory`, which is made."""
    directory.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, directory / WEIGHTS_FILE)
    state = {"optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(), "progress": asdict(progress)}
    torch.save(state, directory / STATE_FILE)


def load_state(directory: Path, *, model: nn.Module, optimizer: Optimizer, scaler: GradScaler) -> Progress:
    """Put the state in `directory` into the arguments and say where it stands.

    Raises CheckpointError when it is unreadable or of another model.
    """
    try:
        weights = load_file(directory / WEIGHTS_FILE)
        state: dict[str, Any] = torch.load(directory / STATE_FILE, map_location="cpu", weights_only=True)
        model.load_state_dict(weights)
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        return _progress(state["progress"])
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, KeyError, TypeError) as err:
        raise CheckpointError(
            f"{directory}: the training state does not fit this stage; delete it to start over: {err}"
        ) from err


def _progress(content: dict[str, Any]) -> Progress:
    return Progress(content["epoch"], content["loss"], Scores(**content["scores"]), tuple(content["broken"]))
