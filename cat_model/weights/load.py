"""Puts weights into models, and saves and loads models as folders with model.safetensors and
model.json.

Input is not trusted: no pickle is run, descriptions are checked field by field, and every tensor
must match the model by name and shape before memory is allocated for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cat_model.backbone import CatBackbone
from cat_model.config import CatConfig
from cat_model.errors import WeightsError
from cat_model.model import Cat
from cat_model.trunk import Trunk
from cat_model.weights.description import Description, parse_description
from cat_model.weights.files import load_file, load_safetensors
from cat_model.weights.fitting import STRICT, Allowance, FitReport, fit
from cat_model.weights.layouts import Weights, parse_weights

TENSORS_FILE = "model.safetensors"
DESCRIPTION_FILE = "model.json"

Model = TypeVar("Model", bound=Trunk)
StrPath = str | os.PathLike[str]


def save_classifier(directory: StrPath, model: Cat, *, classes: Sequence[str]) -> None:
    """Writes `model` and its class names, in the order of its logits, to `directory`."""
    directory = Path(directory)
    if len(classes) != model.num_classes:
        raise ValueError(
            f"classes must name each of the model's {model.num_classes} classes, got "
            f"{len(classes)} names"
        )
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    save_file(tensors, directory / TENSORS_FILE)
    description = Description(model.config, tuple(classes)).to_dict()
    (directory / DESCRIPTION_FILE).write_text(
        json.dumps(description, indent=2) + "\n", encoding="utf-8"
    )


def load_classifier(directory: StrPath) -> tuple[Cat, tuple[str, ...]]:
    """The classifier that `save_classifier` wrote and its class names. Raises WeightsError."""
    directory = Path(directory)
    description, weights = load_folder(directory)
    assert description.classes is not None
    with torch.device("meta"):
        model = Cat(description.config, num_classes=len(description.classes))
    fitted = fit(model.state_dict(), weights, source=f"{directory / TENSORS_FILE} and a Cat")
    return fill(model, fitted.tensors), description.classes


def load_backbone(
    directory: StrPath,
    *,
    out_indices: Sequence[int] = (0, 1, 2, 3),
    drop_path_rate: float | None = None,
) -> CatBackbone:
    """The trunk of a saved classifier as a backbone, with new norms for its maps. Raises
    WeightsError.

    `drop_path_rate` None keeps the classifier's rate. Only the norms may be missing from the file.
    Only the classifier's norm and head, and stages after the last of `out_indices`, may be unused.
    """
    directory = Path(directory)
    description, weights = load_folder(directory)
    config = description.config
    if drop_path_rate is not None:
        config = replace(config, drop_path_rate=drop_path_rate)
    return backbone_of(
        config, weights, out_indices=out_indices, source=str(directory / TENSORS_FILE)
    )


def backbone_of(
    config: CatConfig, weights: Weights, *, out_indices: Sequence[int] = (0, 1, 2, 3), source: str
) -> CatBackbone:
    """A backbone with the weights of a classifier or a backbone, made like in `load_backbone`.
    Raises WeightsError."""
    with torch.device("meta"):
        model = CatBackbone(config, out_indices=out_indices)
    allow = classifier_to_backbone(model, weights)
    return fill(
        model,
        fit(model.state_dict(), weights, source=f"{source} and a CatBackbone", allow=allow).tensors,
    )


def classifier_to_backbone(model: CatBackbone, weights: Weights) -> Allowance:
    """The allowed differences between a classifier's tensors and a backbone: the maps' norms are
    new, the classifier's norm and head unused.

    A backbone with more maps than `model` is accepted too. If it has some norms, it must have all
    those that are needed.
    """
    config = model.config
    with torch.device("meta"):
        whole = CatBackbone(config, out_indices=range(len(config.depths))).state_dict()
        known = whole.keys() | Cat(config, num_classes=1).state_dict().keys()
    norms = frozenset(name for name in whole if name.startswith("norm"))
    is_new = norms.isdisjoint(weights.tensors)
    return Allowance(
        missing=norms if is_new else frozenset(),
        unexpected=frozenset(known - model.state_dict().keys()),
    )


def load_weights(
    model: Cat | CatBackbone,
    weights: StrPath | Mapping[str, Any],
    *,
    from_classifier: bool = False,
    allow_missing: bool = False,
    allow_unexpected: bool = False,
    resize: bool = False,
) -> FitReport:
    """Loads weights of any known layout, from a file path or a state_dict, into `model` and reports
    each tensor.

    Raises WeightsError, and leaves the model unchanged, for any difference that is not allowed by
    one of these arguments:

    - `from_classifier` gives a backbone the trunk of a classifier: the backbone's norms stay, the
      classifier's norm and head are left out.
    - `allow_missing` leaves tensors of the model as they are.
    - `allow_unexpected` leaves out tensors that the model does not have.
    - `resize` interpolates `ape` to the model's map.
    """
    content, source = _opened(weights)
    found = parse_weights(content, map_hw=model.config.map_hw, source=source)
    wanted = model.state_dict()
    allow = STRICT
    if from_classifier:
        if not isinstance(model, CatBackbone):
            raise ValueError(f"from_classifier is for a CatBackbone, got a {type(model).__name__}")
        allow = classifier_to_backbone(model, found)
    if allow_missing:
        allow = replace(allow, missing=frozenset(wanted))
    if allow_unexpected:
        allow = replace(allow, unexpected=frozenset(found.tensors))
    fitted = fit(
        wanted, found, source=f"{source} and a {type(model).__name__}", allow=allow, resize=resize
    )
    model.load_state_dict(dict(fitted.tensors), strict=False)
    return fitted.report


def fill(model: Model, tensors: Mapping[str, Tensor]) -> Model:
    """Allocates a model made on the meta device and loads `tensors`, which `fit` checked; other
    norms are new."""
    model.to_empty(device="cpu")
    for module in model.children():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    model.load_state_dict(dict(tensors), strict=False)
    return model


def _opened(weights: object) -> tuple[Mapping[str, Any], str]:
    """The content of `weights`, a path or a state_dict, and its name for messages. Raises
    WeightsError."""
    if isinstance(weights, str | os.PathLike):
        return load_file(Path(weights)), str(weights)
    if isinstance(weights, Mapping):
        return weights, "the state_dict"
    raise WeightsError(
        f"weights must be the path of a file or a state_dict, got a {type(weights).__name__}"
    )


def load_folder(directory: Path) -> tuple[Description, Weights]:
    """The content of a `save_classifier` folder; the description has the classes. Raises
    WeightsError."""
    path = directory / DESCRIPTION_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as err:
        raise WeightsError(f"{directory}: {_fault_of_folder(directory)}") from err
    except (OSError, ValueError, RecursionError) as err:
        raise WeightsError(f"{path}: not readable as JSON: {err}") from err
    description = parse_description(content, source=str(path))
    if description.classes is None:
        raise WeightsError(f"{path}: classes must be a list of names")
    tensors = directory / TENSORS_FILE
    weights = parse_weights(
        load_safetensors(tensors), map_hw=description.config.map_hw, source=str(tensors)
    )
    return description, weights


def _fault_of_folder(directory: Path) -> str:
    """Why `directory` has no description."""
    if not directory.exists():
        return "no such folder"
    if not directory.is_dir():
        return "is a file; `load_weights` and the official loaders read single files"
    return (
        f"has no {DESCRIPTION_FILE}, so `save_classifier` did not write this folder; give the "
        "checkpoint file in it"
    )
