"""The published form of a fine-tuned model: a folder with model.safetensors and config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from pipelines.openmmlab.recipe import Config


def save_model(
    directory: Path, *, method: str, model: Config, classes: Sequence[str], weights: Mapping[str, Tensor]
) -> None:
    """Write what builds the model again: its config needs no pretrained checkpoint any more."""
    directory.mkdir(parents=True)
    backbone = {name: value for name, value in model["backbone"].items() if name != "checkpoint"}
    document = {"format": 1, "method": method, "classes": list(classes), "model": {**model, "backbone": backbone}}
    (directory / "config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, directory / "model.safetensors")
