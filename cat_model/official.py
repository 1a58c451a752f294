"""Reads checkpoints in the layout of the official repository: one file of the reference's tensors, no config.

The published sizes are told apart by their tensors. Nothing is unpickled but tensors and plain values.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cat_model.config import CONFIGS, CatConfig
from cat_model.model import Cat, CatBackbone
from cat_model.reference import as_map, reference_name
from cat_model.weights import WeightsError, backbone_of, check_fit, fill

UNREADABLE = (
    *(OSError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError),
    *(KeyError, IndexError, ValueError, AssertionError),
)
"""What safetensors and torch's safe unpickler raise on files of another kind; the second line is on any garbage."""
_WRAPPERS = ("model", "state_dict")
_PREFIX = re.compile(r"^(module\.)?(backbone\.)?")


@dataclass(frozen=True)
class Official:
    """A classifier of a published size; `tensors` by our names."""

    name: str
    config: CatConfig
    num_classes: int
    tensors: Mapping[str, Tensor]


def load_official_classifier(path: Path) -> Cat:
    """The classifier in the file. Raises WeightsError, which lists names and shapes."""
    official = load_official(path)
    with torch.device("meta"):
        model = Cat(official.config, num_classes=official.num_classes)
    check_fit(model.state_dict(), official.tensors, source=f"{path} and {official.name}")
    return fill(model, official.tensors)


def load_official_backbone(path: Path, *, drop_path_rate: float | None = None) -> CatBackbone:
    """The trunk of the classifier in the file, with new norms for its maps. Raises WeightsError.

    `drop_path_rate` None keeps that of the published recipe.
    """
    official = load_official(path)
    config = official.config if drop_path_rate is None else replace(official.config, drop_path_rate=drop_path_rate)
    return backbone_of(config, official.tensors, source=f"{path} ({official.name})")


def load_official(path: Path) -> Official:
    """What the file holds. Raises WeightsError where it is not readable or no published size has its tensors."""
    given = {
        _PREFIX.sub("", name): tensor
        for name, tensor in _load_tensors(path).items()
        if not name.endswith("relative_position_index")
    }
    head = given.get("head.weight")
    num_classes = len(head) if head is not None and head.ndim else 1
    faults: dict[str, str] = {}
    for name, config in CONFIGS.items():
        with torch.device("meta"):
            state = Cat(config, num_classes=num_classes).state_dict()
        ours = {reference_name(our_name): our_name for our_name in state}
        tensors = {key: as_map(tensor, config) if key == "ape" else tensor for key, tensor in given.items()}
        try:
            check_fit({key: state[ours[key]] for key in ours}, tensors, source=f"{path} and {name}")
        except WeightsError as err:
            faults[name] = str(err)
            continue
        return Official(name, config, num_classes, {ours[key]: tensor for key, tensor in tensors.items()})
    nearest = min(faults.values(), key=lambda text: text.count("\n"))
    raise WeightsError(f"{path}: not the tensors of {', '.join(CONFIGS)}; the nearest: {nearest}")


def _load_tensors(path: Path) -> dict[str, Tensor]:
    """The state_dict in a .safetensors or torch file, unwrapped."""
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except UNREADABLE as err:
        reason = (str(err).strip().splitlines() or [""])[0]
        raise WeightsError(f"{path}: not readable as tensors alone: {type(err).__name__} {reason}") from err
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path}: holds no state_dict, neither by itself nor under {' or '.join(_WRAPPERS)}")
    return content


def _unpickled(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)
