"""Loads a CAT from a file of any known layout or from a folder of ours, and identifies the network.

A file that does not describe its network is identified by its tensors: first by comparison with the
published sizes, then by the shapes only. The shapes give everything that a CAT's function depends
on, except `qk_scale`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cat_model.backbone import CatBackbone
from cat_model.config import CONFIGS, CatConfig
from cat_model.errors import WeightsError
from cat_model.model import Cat
from cat_model.weights.description import KEY, Description, parse_description
from cat_model.weights.files import load_file
from cat_model.weights.fitting import STRICT, Allowance, find_faults
from cat_model.weights.layouts import Weights, parse_weights
from cat_model.weights.load import TENSORS_FILE, classifier_to_backbone, load_folder
from cat_model.weights.sizes import Candidate, at_map, candidates, name_of

_PUBLISHED_MAP = (56, 56)


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a network and what is known about it."""

    source: str
    config: CatConfig
    name: str | None
    """The name of the published size, at any `img_size`; None for another network."""
    classes: tuple[str, ...] | None
    weights: Weights

    @property
    def is_classifier(self) -> bool:
        """Whether it has a classifier's norm or head; otherwise it is a backbone."""
        return _is_classifier(self.weights)

    def make_model(self, config: CatConfig | None = None) -> Cat | CatBackbone:
        """The model that the weights are for, or a model of `config`, on the meta device."""
        return _make_model(config or self.config, self.weights)


def load_checkpoint(
    path: Path, *, model: str | None = None, allow_unexpected: bool = False
) -> Checkpoint:
    """The network in a file (torch or .safetensors, any known layout) or in a folder of
    `save_classifier`.

    `model`, a key of CONFIGS, is the size that it must be. `allow_unexpected` ignores tensors that
    no CAT has. Raises WeightsError, which lists names and shapes.
    """
    description, weights = load_folder(path) if path.is_dir() else _load_file(path)
    source = str(path / TENSORS_FILE if path.is_dir() else path)
    if model is not None:
        named: list[Candidate] = [(model, at_map(CONFIGS[model], weights.tensors))]
    elif description is not None:
        named = [(name_of(description.config), description.config)]
    else:
        named = candidates(weights.tensors)
    name, config = _identify(named, weights, source=source, allow_unexpected=allow_unexpected)
    return Checkpoint(source, config, name, description.classes if description else None, weights)


def _load_file(path: Path) -> tuple[Description | None, Weights]:
    content = load_file(path)
    meta = content.get("meta")
    description = None
    if isinstance(meta, dict) and KEY in meta:
        description = parse_description(meta[KEY], source=f"{path}: {KEY}")
    map_hw = description.config.map_hw if description else _PUBLISHED_MAP
    return description, parse_weights(content, map_hw=map_hw, source=str(path))


def _identify(
    named: Sequence[Candidate], weights: Weights, *, source: str, allow_unexpected: bool
) -> Candidate:
    """The first network that the weights fit. Raises WeightsError with the differences from the
    nearest one."""
    differences: list[tuple[int, str]] = []
    for name, config in named:
        faults = _find_faults(config, weights, allow_unexpected=allow_unexpected)
        if not faults:
            return name, config
        listed = "\n  ".join(
            [f"{source} and {name or config} differ in {len(faults)} tensors:", *faults]
        )
        differences.append((len(faults), listed))
    _, nearest = min(differences)
    others = (
        f"{source}: holds none of {', '.join(CONFIGS)}; the nearest: " if len(named) > 1 else ""
    )
    raise WeightsError(others + nearest)


def _find_faults(config: CatConfig, weights: Weights, *, allow_unexpected: bool) -> list[str]:
    model = _make_model(config, weights)
    allow = classifier_to_backbone(model, weights) if isinstance(model, CatBackbone) else STRICT
    if allow_unexpected:
        allow = Allowance(allow.missing, frozenset(weights.tensors))
    return find_faults(model.state_dict(), weights, allow=allow)


def _is_classifier(weights: Weights) -> bool:
    return any(name.startswith(("norm.", "head.")) for name in weights.tensors)


def _make_model(config: CatConfig, weights: Weights) -> Cat | CatBackbone:
    """A classifier with as many classes as the head has, or a backbone of the maps that have norms
    (of all maps if none has)."""
    with torch.device("meta"):
        if _is_classifier(weights):
            head = weights.tensors.get("head.fc.weight")
            return Cat(
                config, num_classes=len(head) if head is not None and head.ndim and len(head) else 1
            )
        stages = range(len(config.depths))
        indices = [stage for stage in stages if f"norm{stage}.weight" in weights.tensors]
        return CatBackbone(config, out_indices=indices or stages)
