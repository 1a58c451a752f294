"""Makes the network of a job, selects its device, and loads finished classifiers to evaluate or to
start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cat_model.config import CatConfig
from cat_model.errors import WeightsError
from cat_model.model import Cat
from cat_model.weights.fitting import STRICT, Allowance, fit
from cat_model.weights.identify import Checkpoint, load_checkpoint
from cat_model.weights.load import load_classifier
from cat_model.weights.official import load_official_classifier
from orchestrator.contract import StageContext
from orchestrator.errors import CheckpointError, JobError
from pipelines.cat.checkpoint import check_classes, file_from_outside
from pipelines.cat.network import check_network, config_of
from pipelines.pretrain.params import PretrainParams

HEAD = frozenset({"head.fc.weight", "head.fc.bias"})


def make_config(params: PretrainParams) -> CatConfig:
    """The network config of `params`, with their input size and drop path."""
    config = replace(config_of(params.model), img_size=params.input_size)
    return (
        config
        if params.drop_path_rate is None
        else replace(config, drop_path_rate=params.drop_path_rate)
    )


def checked_device(context: StageContext) -> torch.device:
    """The context's device, selected for this process; raises JobError if the device does not
    support `precision`."""
    device = torch.device(context.device)
    if context.params.precision == "fp16" and device.type == "cpu":
        raise JobError("precision: fp16 needs a GPU; on CPUs set precision to fp32 or bf16")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def start_weights(
    model: Cat, directory: Path, params: PretrainParams, classes: Sequence[str]
) -> None:
    """Load the classifier in `directory`, a stage's checkpoint or a single file, into `model` over
    `classes`.

    The position embedding is interpolated to the model's map. With `reset_head` the model keeps its
    own head, and the classes may differ. Raises CheckpointError for a different network or
    different classes.
    """
    found = _load_start(directory)
    check_network(
        found.config,
        model.config,
        what="weights",
        wanted_by="the job's model",
        correct="`model` or `weights`",
        ignores_img_size=True,
    )
    weights, allow = found.weights, STRICT
    if params.reset_head:
        kept = {name: tensor for name, tensor in weights.tensors.items() if name not in HEAD}
        weights, allow = replace(weights, tensors=kept), Allowance(missing=HEAD)
    else:
        _check_start_classes(found, classes)
    try:
        fitted = fit(
            model.state_dict(),
            weights,
            source=f"{found.source} and the job's model",
            allow=allow,
            resize=True,
        )
    except WeightsError as err:
        raise CheckpointError(f"weights: {err}; correct `model` or `weights`") from err
    model.load_state_dict(dict(fitted.tensors), strict=False)


def _load_start(directory: Path) -> Checkpoint:
    try:
        found = load_checkpoint(file_from_outside(directory) or directory)
    except WeightsError as err:
        raise CheckpointError(
            f"weights: cannot read a classifier: {err}; give the checkpoint of a pretrain stage, "
            "or a file in the official layout"
        ) from err
    if not found.is_classifier:
        raise CheckpointError(
            "weights: is a backbone without the norm and the head of a classifier; give a "
            "classifier"
        )
    return found


def _check_start_classes(found: Checkpoint, classes: Sequence[str]) -> None:
    """Raises CheckpointError for different classes. A single file names no classes: only their
    number is compared, and their order is assumed to match sorted folders."""
    fitting = "fine-tune on data with the same classes, or set reset_head: true to replace the head"
    if found.classes is not None:
        check_classes(found.classes, classes, what="weights", fitting=fitting)
        return
    head = found.weights.tensors.get("head.fc.weight")
    num_classes = 0 if head is None else len(head)
    if num_classes != len(classes):
        raise CheckpointError(
            f"weights: has {num_classes} classes, but the data have {len(classes)}; {fitting}"
        )


def load_checked_classifier(
    directory: Path, *, config: CatConfig, classes: Sequence[str], img_size: int | None = None
) -> Cat:
    """The classifier of a stage's checkpoint, or of the only file in `directory`, in the official
    layout.

    `img_size` interpolates its position embedding to images of that side. Raises CheckpointError
    unless the result is the network `config` over `classes`. An official file names no classes:
    they are assumed to be in the order of the sorted folders, like ImageNet's, and only their
    number is compared.
    """
    model, known = _load(directory)
    model.set_input_size(img_size)
    if known is None:
        if model.num_classes != len(classes):
            raise CheckpointError(
                f"checkpoint: has {model.num_classes} classes, but the data have {len(classes)}; "
                "evaluate it on its own data"
            )
    else:
        check_classes(known, classes)
    check_network(
        model.config, config, what="checkpoint", wanted_by="the job's model", correct="`model`"
    )
    return model


def _load(directory: Path) -> tuple[Cat, tuple[str, ...] | None]:
    """The classifier, and its classes or None if it does not name them."""
    try:
        file = file_from_outside(directory)
        return (
            load_classifier(directory) if file is None else (load_official_classifier(file), None)
        )
    except WeightsError as err:
        raise CheckpointError(
            f"checkpoint: cannot read a classifier: {err}; give the checkpoint of a pretrain "
            "stage, or a file in the official layout"
        ) from err
