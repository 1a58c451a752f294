"""Writes and reads the published form of a fine-tuned model: a folder with model.safetensors,
config.json and the record's files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cat_model import CatConfig
from orchestrator.artifact import Metric
from orchestrator.errors import CheckpointError
from pipelines.cat.checkpoint import check_classes
from pipelines.openmmlab.ops import active_ops
from pipelines.openmmlab.recipe import Config
from pipelines.openmmlab.record import COMPLEXITY_FILE, sizes_of

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = 1
UNMEASURED = frozenset({"train_cfg", "norm_cfg", "size", "drop_path_rate"})
"""Parts of a model's config that may differ in an evaluation: training settings, SyncBN (which only
GPUs use), and dropout."""


def save_model(
    directory: Path,
    *,
    method: str,
    model: Config,
    classes: Sequence[str],
    weights: Mapping[str, Tensor],
) -> None:
    """Writes the model so that it can be built again without the pretrained checkpoint."""
    directory.mkdir(parents=True)
    backbone = {name: value for name, value in model["backbone"].items() if name != "checkpoint"}
    document = {
        "format": FORMAT,
        "method": method,
        "classes": list(classes),
        "model": {**model, "backbone": backbone},
        "ops": active_ops(),
    }
    (directory / CONFIG_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()}, directory / WEIGHTS_FILE
    )


@dataclass(frozen=True)
class SavedModel:
    """A model that `save_model` wrote. Its config is never built. The job's own config is built,
    after a check that both agree."""

    method: str
    classes: tuple[str, ...]
    model: Mapping[str, Any]
    backbone: CatConfig | None
    """None if the model kept the backbone of its config file."""
    weights: Mapping[str, Tensor]
    sizes: tuple[Metric, ...]
    """Parameters and multiply-accumulates, as counted in its training."""

    def check(self, *, method: str, classes: Sequence[str]) -> None:
        """Raises CheckpointError unless the model has the job's method and the data's classes."""
        if self.method != method:
            raise CheckpointError(
                f"checkpoint: holds a {self.method}, but the job has {method}; correct `method`"
            )
        check_classes(self.classes, classes)

    def check_model(self, model: Config) -> None:
        """Raises CheckpointError, which names the fields, if settings of the job's `model` differ.

        This check finds differences that tensor shapes do not show, such as anchors. Wrong shapes
        are reported when the tensors are loaded.
        """
        ours = json.loads(json.dumps(model))
        differing = list(_differences("", self.model, ours))
        if differing:
            raise CheckpointError(
                "checkpoint: its model differs from the model that the job's params describe: "
                f"{'; '.join(differing)}; correct the params"
            )


def load_model(directory: Path) -> SavedModel:
    """Reads what `save_model` wrote, without executing code from it. Raises CheckpointError if the
    folder holds something else."""
    try:
        document = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"format must be {FORMAT}, not {document['format']!r}")
        return SavedModel(
            method=str(document["method"]),
            classes=tuple(map(str, document["classes"])),
            model=document["model"],
            backbone=_cat_config(document["model"]["backbone"]),
            weights=load_file(directory / WEIGHTS_FILE),
            sizes=sizes_of(json.loads((directory / COMPLEXITY_FILE).read_text(encoding="utf-8"))),
        )
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        SafetensorError,
    ) as err:
        raise CheckpointError(
            f"checkpoint: cannot be read as a fine-tuned model: {type(err).__name__} {err}; "
            "give the checkpoint of a detection or segmentation stage"
        ) from err


def _cat_config(backbone: Mapping[str, Any]) -> CatConfig | None:
    return CatConfig.from_dict(backbone["config"]) if backbone.get("type", "CAT") == "CAT" else None


def _differences(path: str, held: object, ours: object) -> Iterator[str]:
    """Differences in the fields that both configs have. Fields in only one config come from another
    version of this code, so they are ignored."""
    if isinstance(held, Mapping) and isinstance(ours, Mapping):
        for name in held:
            if name in ours and name not in UNMEASURED:
                yield from _differences(f"{path}.{name}", held[name], ours[name])
    elif held != ours:
        yield f"{path.removeprefix('.')} {held} instead of {ours}"
