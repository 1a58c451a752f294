"""Fine-tuning starts only from a classifier that fits, possibly at another size or with a new
head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cat_model import CONFIGS, Cat, from_reference
from cat_model.weights.load import load_classifier, save_classifier
from orchestrator.errors import CheckpointError
from pipelines.pretrain.evaluate import run as evaluate
from pipelines.pretrain.network import (
    HEAD,
    load_checked_classifier,
    make_config,
    start_weights,
)
from pipelines.pretrain.params import PretrainParams
from pipelines.pretrain.train import run as train
from tests.cat_model.golden import load_vector
from tests.cat_model.weights.wrong_files import MESSAGES, write_wrong_file
from tests.pipelines.pretrain.conftest import MakeContext, as_evaluation, make_params

VECTOR = load_vector("cat_tiny_224")
CLASSES = ("cat", "dog", "owl")
TRUNK_AT_56 = ("patch_embed.proj.weight", "stages.3.blocks.0.cpsa.attn.qkv.weight", "norm.weight")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A toy classifier for images of 28 pixels over CLASSES."""
    folder = tmp_path / "saved"
    torch.manual_seed(1)
    save_classifier(folder, Cat(make_config(_params()), num_classes=len(CLASSES)), classes=CLASSES)
    return folder


def _params(**changes: Any) -> PretrainParams:
    return make_params(Path("/data"), weights="pretrain.checkpoint", **changes)


def _fresh(params: PretrainParams, *, num_classes: int = 3) -> Cat:
    torch.manual_seed(2)
    return Cat(make_config(params), num_classes=num_classes)


def test_model_takes_the_weights_of_the_checkpoint(saved: Path) -> None:
    params = _params(drop_path_rate=0.3)
    model = _fresh(params)
    start_weights(model, saved, params, CLASSES)
    held, _ = load_classifier(saved)
    x_BIHW = torch.rand(2, 3, 28, 28)  # noqa: N806
    assert torch.equal(model.eval()(x_BIHW), held.eval()(x_BIHW))
    assert model.config.drop_path_rate == 0.3


def test_higher_resolution_interpolates_the_embedding(saved: Path) -> None:
    params = _params(img_size=56)
    assert params.input_size == 56
    model = _fresh(params)
    start_weights(model, saved, params, CLASSES)
    held, _ = load_classifier(saved)
    assert model.ape is not None
    assert held.ape is not None
    assert model.ape.shape == (1, 14, 14, 8)
    for name in TRUNK_AT_56:
        assert torch.equal(model.state_dict()[name], held.state_dict()[name])
    held.set_input_size(56)
    assert torch.equal(model.ape, held.ape)


def test_reset_head_keeps_all_weights_except_the_head(saved: Path) -> None:
    params = _params(reset_head=True)
    model = _fresh(params, num_classes=5)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start_weights(model, saved, params, ("a", "b", "c", "d", "e"))
    held = load_classifier(saved)[0].state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (fresh if name.startswith("head.") else held)[name]), name


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        (("cat", "dog", "fox"), "only in the checkpoint: owl; only in the data: fox"),
        (("dog", "cat", "owl"), "the same classes in a different order"),
        (("cat", "dog"), "its 3 classes differ from the data's 2"),
    ],
)
def test_other_classes_are_refused_and_reset_head_is_named(
    saved: Path, classes: tuple[str, ...], text: str
) -> None:
    model = _fresh(_params(), num_classes=len(classes))
    with pytest.raises(
        CheckpointError, match=rf"^weights: .*{text}.*; .*set reset_head: true to replace the head"
    ):
        start_weights(model, saved, _params(), classes)


def test_different_network_is_refused_with_its_settings(saved: Path) -> None:
    params = _params(
        model={"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "img_size": 28}
    )
    with pytest.raises(
        CheckpointError,
        match=r"^weights: .*: embed_dim 8 instead of 16; correct `model` or `weights`",
    ):
        start_weights(_fresh(params), saved, params, CLASSES)


def test_head_with_fewer_rows_than_named_classes_is_refused(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    cut = {name: tensors[name][:2].clone() for name in HEAD}
    save_file(tensors | cut, saved / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        start_weights(_fresh(_params()), saved, _params(), CLASSES)
    assert str(caught.value) == (
        f"weights: {saved}/model.safetensors and the job's model differ in 2 tensors:\n"
        "  shape: head.fc.bias is (2,), the model needs (3,)\n"
        "  shape: head.fc.weight is (2, 64), the model needs (3, 64); correct `model` or `weights`"
    )


def test_backbone_in_place_of_a_classifier_is_refused(tmp_path: Path) -> None:
    vector = load_vector("backbone_tiny_192x320")
    torch.save({"state_dict": vector.state_dict()}, tmp_path / "cat.pth")
    params = _params(model="cat_tiny")
    with pytest.raises(
        CheckpointError,
        match=r"^weights: is a backbone without the norm and the head of a classifier; give a "
        r"classifier$",
    ):
        start_weights(_fresh(params), tmp_path, params, CLASSES)


@pytest.mark.parametrize("name", sorted(MESSAGES.keys() - {"folder"}))
def test_non_checkpoint_error_names_the_kind_of_file(tmp_path: Path, name: str) -> None:
    write_wrong_file(name, tmp_path / "cat.pth")
    message = rf"^weights: cannot read a classifier: .*cat\.pth: {MESSAGES[name]}"
    with pytest.raises(CheckpointError, match=message) as caught:
        start_weights(_fresh(_params()), tmp_path, _params(), CLASSES)
    assert "weights_only" not in str(caught.value)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A folder with only a file in the official layout."""
    folder = tmp_path / "official"
    folder.mkdir()
    torch.save({"model": VECTOR.state_dict()}, folder / "cat_tiny.pth")
    return folder


def test_official_file_starts_a_model_of_another_size(official: Path) -> None:
    params = _params(model="cat_tiny", img_size=112)
    model = _fresh(params, num_classes=1000)
    start_weights(model, official, params, [str(number) for number in range(1000)])
    rival = from_reference(VECTOR.kwargs, VECTOR.state_dict())
    assert isinstance(rival, Cat)
    rival.set_input_size(112)
    x_BIHW = torch.rand(1, 3, 112, 112)  # noqa: N806
    assert torch.equal(model.eval()(x_BIHW), rival.eval()(x_BIHW))


def test_official_file_needs_the_same_number_of_classes(official: Path) -> None:
    params = _params(model="cat_tiny")
    with pytest.raises(
        CheckpointError,
        match=r"^weights: has 1000 classes, but the data have 3; .*reset_head: true",
    ):
        start_weights(_fresh(params), official, params, CLASSES)


def test_evaluation_may_use_larger_images(saved: Path) -> None:
    config = make_config(_params(img_size=56))
    model = load_checked_classifier(saved, config=config, classes=CLASSES, img_size=56)
    assert model.config.image_hw == (56, 56)
    with pytest.raises(
        CheckpointError, match=r"img_size \[28, 28\] instead of \[56, 56\]; correct `model`"
    ):
        load_checked_classifier(saved, config=config, classes=CLASSES)


def test_fine_tuning_at_a_higher_resolution_is_evaluated(make_context: MakeContext) -> None:
    context, _ = make_context(epochs=1, mixup=0, cutmix=0)
    folder = train(context).outputs["checkpoint"]
    tuned, _ = make_context(epochs=1, mixup=0, cutmix=0, img_size=56, weights="pretrain.checkpoint")
    tuned = replace(tuned, inputs={"weights": folder})
    outputs = train(tuned).outputs["checkpoint"]
    model, _ = load_classifier(outputs)
    assert model.config.image_hw == (56, 56)
    measured = evaluate(as_evaluation(tuned, outputs))
    assert {metric.name for metric in measured.metrics} >= {"top1", "flops_g"}


def test_published_sizes_accept_another_input_size() -> None:
    config = make_config(_params(model="cat_small", img_size=384))
    assert config == replace(CONFIGS["cat_small"], img_size=384)


def test_network_uses_the_drop_path_of_the_job() -> None:
    assert (
        make_config(_params(model="cat_small")).drop_path_rate
        == CONFIGS["cat_small"].drop_path_rate
        == 0.2
    )
    assert make_config(_params(model="cat_small", drop_path_rate=0.4)).drop_path_rate == 0.4
