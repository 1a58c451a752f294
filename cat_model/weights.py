"""Saves and loads CAT's weights: a folder with model.safetensors and model.json (the config and the classes).

Nothing in a folder is trusted: no pickle is read, model.json is checked field by field, and every tensor must match
the model by name and shape before any memory is taken for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cat_model.attention import Ipsa
from cat_model.config import CatConfig
from cat_model.model import Cat, CatBackbone, Trunk

TENSORS_FILE = "model.safetensors"
DESCRIPTION_FILE = "model.json"
_FORMAT = 1

Model = TypeVar("Model", bound=Trunk)


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit the model; the text lists names and shapes."""


def save_classifier(directory: Path, model: Cat, *, classes: Sequence[str]) -> None:
    """Writes `model` and the names of its classes, in the order of its logits, to `directory`."""
    if len(classes) != model.num_classes:
        raise ValueError(f"classes must name each of the model's {model.num_classes} classes, got {len(classes)} names")
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, directory / TENSORS_FILE)
    description = {"format": _FORMAT, "config": model.config.to_dict(), "classes": list(classes)}
    (directory / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_classifier(directory: Path) -> tuple[Cat, tuple[str, ...]]:
    """The classifier that `save_classifier` wrote and the names of its classes. Raises WeightsError."""
    config, classes = _load_description(directory)
    with torch.device("meta"):
        model = Cat(config, num_classes=len(classes))
    tensors = _load_tensors(directory)
    check_fit(model.state_dict(), tensors, source=f"{directory / TENSORS_FILE} and a Cat")
    return fill(model, tensors), classes


def load_backbone(
    directory: Path, *, out_indices: Sequence[int] = (0, 1, 2, 3), drop_path_rate: float | None = None
) -> CatBackbone:
    """The trunk of a saved classifier as a backbone, with new norms for its maps. Raises WeightsError.

    `drop_path_rate` None keeps the classifier's. Only the norms may be missing from the file, and only the
    classifier's norm and head, and stages beyond the last of `out_indices`, may be left over.
    """
    config, _ = _load_description(directory)
    if drop_path_rate is not None:
        config = replace(config, drop_path_rate=drop_path_rate)
    tensors = _load_tensors(directory)
    return backbone_of(config, tensors, out_indices=out_indices, source=str(directory / TENSORS_FILE))


def backbone_of(
    config: CatConfig, classifier: Mapping[str, Tensor], *, out_indices: Sequence[int] = (0, 1, 2, 3), source: str
) -> CatBackbone:
    """The trunk of a classifier's tensors as a backbone, as `load_backbone` makes it. Raises WeightsError."""
    with torch.device("meta"):
        model = CatBackbone(config, out_indices=out_indices)
        names = Cat(config, num_classes=1).state_dict().keys()
    wanted = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("norm")}
    left_over = names - wanted.keys()
    tensors = {name: tensor for name, tensor in classifier.items() if name not in left_over}
    check_fit(wanted, tensors, source=f"{source} and a CatBackbone")
    return fill(model, tensors)


def check_fit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], *, source: str) -> None:
    """Raises WeightsError unless `given` holds the `wanted` tensors by name and shape, as floats, and no others."""
    faults = [f"missing: {name} {tuple(wanted[name].shape)}" for name in wanted.keys() - given.keys()]
    faults += [f"unexpected: {name} {tuple(given[name].shape)}" for name in given.keys() - wanted.keys()]
    for name in wanted.keys() & given.keys():
        seen, needed = given[name], wanted[name]
        if seen.shape != needed.shape:
            faults.append(f"shape: {name} is {tuple(seen.shape)}, the model needs {tuple(needed.shape)}")
        elif not seen.is_floating_point():
            faults.append(f"type: {name} is {seen.dtype}, the model needs floats")
    if faults:
        listed = "\n  ".join(sorted(faults))
        raise WeightsError(f"{source} differ in {len(faults)} tensors:\n  {listed}")


def fill(model: Model, tensors: Mapping[str, Tensor]) -> Model:
    """A model made on the meta device, in memory: `tensors`, which `check_fit` passed, put in; other norms fresh."""
    model.to_empty(device="cpu")
    for module in model.children():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    for module in model.modules():
        if isinstance(module, Ipsa):
            module.init_non_persistent_buffers()
    model.load_state_dict(dict(tensors), strict=False)
    return model


def _load_tensors(directory: Path) -> dict[str, Tensor]:
    path = directory / TENSORS_FILE
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as err:
        raise WeightsError(f"{path}: not readable as safetensors: {err}") from err
    return tensors


def _load_description(directory: Path) -> tuple[CatConfig, tuple[str, ...]]:
    """The config and the classes of model.json."""
    path = directory / DESCRIPTION_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise WeightsError(f"{path}: not readable as JSON: {err}") from err
    if not isinstance(content, dict) or set(content) != {"format", "config", "classes"}:
        raise WeightsError(f"{path}: must be a mapping with exactly the fields format, config and classes")
    if content["format"] != _FORMAT:
        raise WeightsError(f"{path}: format must be {_FORMAT}, got {content['format']!r}")
    classes = content["classes"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise WeightsError(f"{path}: classes must be a list of names")
    if not isinstance(content["config"], dict):
        raise WeightsError(f"{path}: config must be a mapping")
    try:
        return CatConfig.from_dict(content["config"]), tuple(classes)
    except ValueError as err:
        raise WeightsError(f"{path}: config: {err}") from err
