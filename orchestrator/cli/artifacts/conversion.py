"""Converts a published checkpoint for other libraries. Imports torch, so only `get --as` imports
it."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file

from cat_model.config import CONFIGS, CatConfig
from cat_model.convert import Options, UsageError, convert
from cat_model.errors import WeightsError
from cat_model.weights.identify import load_checkpoint
from cat_model.weights.load import DESCRIPTION_FILE, TENSORS_FILE, load_classifier
from orchestrator.errors import CheckpointError, JobError

CONFIG_FILE = "config.json"
"""A fine-tuned detector or segmenter has it, a classifier has DESCRIPTION_FILE."""
FILES = {
    "timm": "model.pth",
    "mmdet": "backbone.pth",
    "safetensors": "model.safetensors",
    "onnx": "model.onnx",
}
HOW_TO_LOAD = {
    "timm": """\
import cat_model  # registers cat_tiny, cat_small and cat_base
import timm

model = timm.create_model(
    "{base}", checkpoint_path="model.pth", num_classes={num_classes}{changes}
).eval()
""",
    "mmdet": """\
from dataclasses import replace

from cat_model import CONFIGS, CatBackbone
from mmengine.model import initialize

model = CatBackbone(replace(CONFIGS["{base}"]{changes}))  # norm0 to norm3 are new
initialize(model, dict(type="Pretrained", checkpoint="backbone.pth"))
""",
    "safetensors": """\
from dataclasses import replace

from cat_model import CONFIGS, Cat, load_weights

model = Cat(replace(CONFIGS["{base}"]{changes}), num_classes={num_classes}).eval()
load_weights(model, "model.safetensors")
""",
    "onnx": """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
images = np.zeros((1, {in_chans}, {height}, {width}), np.float32)  # normalised
(logits,) = session.run(None, {{"images": images}})
""",
}
SCOPES = {"detection": "mmdet", "segmentation": "mmseg"}
CONFIG = """\
# A model of {scope} whose backbone is CAT. Its class is in this project, which must be installed.
custom_imports = dict(imports=["pipelines.openmmlab.backbone"])
default_scope = "{scope}"
model = {model!r}
"""
HOW_TO_LOAD_CONFIG = """\
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from pipelines.openmmlab.library import MODELS, DefaultScope, load_library

load_library("{scope}")
with DefaultScope.overwrite_default_scope("{scope}"):
    model = MODELS.build(Config.fromfile("config.py").model).eval()
load_checkpoint(model, "model.pth", map_location="cpu")
"""


def convert_checkpoint(source: Path, out: Path, *, target: str, kind: str) -> str:
    """Write the checkpoint in the folder `source` for `target` to the folder `out`. Returns Python
    code that loads it there.

    Raises CheckpointError if it has no such form, JobError if a library for it is not installed.
    """
    if (source / CONFIG_FILE).is_file():
        return _convert_fine_tuned(source, out, target=target, kind=kind)
    if not (source / DESCRIPTION_FILE).is_file():
        raise CheckpointError("--as: the output is not a checkpoint; leave out --as")
    try:
        found = load_checkpoint(source)
        if target == "onnx":
            _export_onnx(source, out / FILES[target])
        else:
            convert(_options(source, out / FILES[target], target))
    except (WeightsError, UsageError) as err:
        raise CheckpointError(f"--as {target}: {err}") from err
    return _how_to_load(target, found.name, found.config, num_classes=len(found.classes or ()))


def _options(source: Path, out: Path, target: str) -> Options:
    return Options(source, out, target, img_size=None, model=None, allow_unexpected=False)


def _how_to_load(target: str, name: str | None, config: CatConfig, *, num_classes: int) -> str:
    base = name or next(iter(CONFIGS))
    usual = asdict(CONFIGS[base])
    changes = {field: value for field, value in asdict(config).items() if value != usual[field]}
    height, width = config.image_hw
    return HOW_TO_LOAD[target].format(
        base=base,
        changes="".join(f", {field}={value!r}" for field, value in changes.items()),
        num_classes=num_classes,
        in_chans=config.in_chans,
        height=height,
        width=width,
    )


def _convert_fine_tuned(source: Path, out: Path, *, target: str, kind: str) -> str:
    """Write a config and weights for the model's own library."""
    scope = SCOPES.get(kind)
    if target != "mmdet" or scope is None:
        raise CheckpointError(
            f"--as {target}: only a classifier has this form; use --as mmdet for a model of the "
            f"kind {kind}, or leave out --as: its weights are in {TENSORS_FILE}"
        )
    document = json.loads((source / CONFIG_FILE).read_text(encoding="utf-8"))
    config = CONFIG.format(scope=scope, model=document["model"])
    (out / "config.py").write_text(config, encoding="utf-8")
    weights = load_file(source / TENSORS_FILE)
    meta = {"dataset_meta": {"classes": document["classes"]}}
    torch.save({"state_dict": weights, "meta": meta}, out / "model.pth")
    return HOW_TO_LOAD_CONFIG.format(scope=scope)


def _export_onnx(source: Path, path: Path) -> None:
    model, classes = load_classifier(source)
    images = torch.zeros(2, model.config.in_chans, *model.config.image_hw)
    try:
        # The exporter warns about deprecated parts of torch that it uses itself.
        with warnings.catch_warnings(action="ignore"):
            program = torch.onnx.export(
                model.eval(),
                (images,),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: "batch"},),
                dynamo=True,
                verbose=False,
            )
    except ImportError as err:
        raise JobError(
            "--as onnx: onnx and onnxscript are not installed; run: pip install onnx onnxscript"
        ) from err
    assert program is not None, "dynamo=True returns a program"
    program.model.metadata_props["classes"] = json.dumps(classes)
    program.save(path)
