"""The network that a job names, the device that it runs on, and a finished classifier held against the job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cat_model.config import CONFIGS, CatConfig
from cat_model.errors import WeightsError
from cat_model.model import Cat
from cat_model.official import load_official_classifier
from cat_model.weights import load_classifier
from orchestrator.contract import StageContext
from orchestrator.errors import CheckpointError, JobError
from pipelines.checkpoint import check_classes, file_from_outside
from pipelines.pretrain.params import PretrainParams

TRAINING_ONLY = frozenset({"drop_rate", "attn_drop_rate", "drop_path_rate"})
"""Fields of a CatConfig that play no part in evaluation."""


def make_config(params: PretrainParams) -> CatConfig:
    config = CONFIGS[params.model] if isinstance(params.model, str) else CatConfig(**params.model.model_dump())
    return config if params.drop_path_rate is None else replace(config, drop_path_rate=params.drop_path_rate)


def checked_device(context: StageContext) -> torch.device:
    """The context's device, made this process's own; raises JobError where it has no arithmetic of `precision`."""
    device = torch.device(context.device)
    if context.params.precision == "fp16" and device.type == "cpu":
        raise JobError("precision: fp16 needs a GPU; on CPUs set precision to fp32 or bf16")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def load_checked_classifier(directory: Path, *, config: CatConfig, classes: Sequence[str]) -> Cat:
    """The classifier of a stage's checkpoint, or of the only file of `directory`, in the official layout.

    Raises CheckpointError unless it is the network `config` over `classes`. An official file names no classes: they
    are taken to be in the order of the sorted folders, as ImageNet's are, and only their number is compared.
    """
    model, known = _load(directory)
    if known is None:
        if model.num_classes != len(classes):
            raise CheckpointError(
                f"checkpoint: has {model.num_classes} classes, the data {len(classes)}; measure it on its own data"
            )
    else:
        check_classes(known, classes)
    _check_network(model.config, config)
    return model


def _load(directory: Path) -> tuple[Cat, tuple[str, ...] | None]:
    """The classifier and, if it names them, its classes."""
    try:
        file = file_from_outside(directory)
        return load_classifier(directory) if file is None else (load_official_classifier(file), None)
    except WeightsError as err:
        raise CheckpointError(
            f"checkpoint: no classifier can be read from it: {err}; give the checkpoint of a pretrain stage, or a file "
            "of the official layout"
        ) from err


def _check_network(held: CatConfig, wanted: CatConfig) -> None:
    own, asked = held.to_dict(), wanted.to_dict()
    differing = [
        f"{name} {own[name]} instead of {asked[name]}"
        for name in own
        if name not in TRAINING_ONLY and own[name] != asked[name]
    ]
    if differing:
        raise CheckpointError(
            f"checkpoint: holds another network than the job's model: {', '.join(differing)}; correct `model`"
        )
