"""Puts weights into models, and saves and loads them: a folder with model.safetensors and
model.json.

Nothing that is read is trusted: no pickle is run, descriptions are checked field by field, and
every tensor must match the model by name and shape before any memory is taken for it.
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
    """Writes `model` and the names of its classes, in the order of its logits, to `directory`."""
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
    """The classifier that `save_classifier` wrote and the names of its classes. Raises
    WeightsError."""
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

    `drop_path_rate` None keeps the classifier's. Only the norms may be missing from the file, and
    only the classifier's norm and head, and stages beyond the last of `out_indices`, may be left
    over.
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
    """A backbone with the weights of a classifier or a backbone, as `load_backbone` makes it.
    Raises WeightsError."""
    with torch.device("meta"):
        model = CatBackbone(config, out_indices=out_indices)
    allow = classifier_to_backbone(model, weights)
    return fill(
        model,
        fit(model.state_dict(), weights, source=f"{source} and a CatBackbone", allow=allow).tensors,
    )


def classifier_to_backbone(model: CatBackbone, weights: Weights) -> Allowance:
    """How a classifier's tensors may differ from a backbone's: the maps' norms are new, its norm
    and head unused.

    A backbone with more maps than `model` serves too; one that has some norms must have all that
    are asked for.
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
    """Puts the weights of a file (its path), or a state_dict, of any known layout into `model` and
    reports each.

    Raises WeightsError, and leaves the model as it was, for any difference that was not asked for:
    `from_classifier` gives a backbone the trunk of a classifier (its norms stay, the classifier's
    norm and head are left out), `allow_missing` leaves tensors of the model as they are,
    `allow_unexpected` leaves out what the model does not have, and `resize` interpolates `ape` to
    the model's map.
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
    """A model made on the meta device, in memory: `tensors`, which `fit` passed, put in; other
    norms fresh."""
    model.to_empty(device="cpu")
    for module in model.children():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    model.load_state_dict(dict(tensors), strict=False)
    return model


def _opened(weights: object) -> tuple[Mapping[str, Any], str]:
    """The content of `weights`, a path or a state_dict, and its name in messages. Raises
    WeightsError."""
    if isinstance(weights, str | os.PathLike):
        return load_file(Path(weights)), str(weights)
    if isinstance(weights, Mapping):
        return weights, "the state_dict"
    raise WeightsError(
        f"weights must be the path of a file or a state_dict, got a {type(weights).__name__}"
    )


def load_folder(directory: Path) -> tuple[Description, Weights]:
    """What `save_classifier` wrote; the description names the classes. Raises WeightsError."""
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
    """Why there is no description in `directory`."""
    if not directory.exists():
        return "no such folder"
    if not directory.is_dir():
        return "is a file; `load_weights` and the official loaders read single files"
    return (
        f"has no {DESCRIPTION_FILE}, so `save_classifier` did not write this folder; give the "
        "checkpoint file in it"
    )
