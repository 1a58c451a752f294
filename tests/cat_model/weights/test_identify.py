"""The network of a checkpoint is identified by its description, its tensors or the caller;
otherwise the error names the nearest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cat_model import (
    CONFIGS,
    Cat,
    CatBackbone,
    CatConfig,
    WeightsError,
    from_reference,
    save_classifier,
)
from cat_model.weights.identify import load_checkpoint
from cat_model.weights.reference import config_from_reference
from tests.cat_model.golden import load_vector

TINY = load_vector("cat_tiny_224")


def zeros(config: CatConfig, *, num_classes: int = 3) -> dict[str, Tensor]:
    with torch.device("meta"):
        state = Cat(config, num_classes=num_classes).state_dict()
    return {name: torch.zeros(tensor.shape, dtype=torch.float16) for name, tensor in state.items()}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("img_size", [224, (320, 448)])
def test_published_size_is_identified_at_any_image_size(
    tmp_path: Path, name: str, img_size: tuple[int, int] | int
) -> None:
    config = replace(CONFIGS[name], img_size=img_size)
    torch.save(zeros(config), tmp_path / "cat.pth")
    found = load_checkpoint(tmp_path / "cat.pth")
    assert found.name == name
    assert found.config == config
    assert found.is_classifier is True


@pytest.mark.parametrize("tag", ["toy", "toy_backbone_100x140", "toy_slice", "toy_variant"])
def test_other_networks_are_identified_by_their_shapes(tmp_path: Path, tag: str) -> None:
    """The exceptions are settings that no tensor shows: qk_scale, the rates, and the image size if
    there is no `ape`."""
    vector = load_vector(tag)
    torch.save(vector.state_dict(), tmp_path / "toy.pth")
    given = config_from_reference(vector.kwargs)
    expected = replace(given, drop_rate=0.0, attn_drop_rate=0.0, drop_path_rate=0.0, qk_scale=None)
    if not expected.ape:
        expected = replace(expected, img_size=224)
    found = load_checkpoint(tmp_path / "toy.pth")
    assert found.name is None
    assert found.config == expected


def test_flat_map_that_is_not_square_is_refused(tmp_path: Path) -> None:
    torch.save(load_vector("toy_rect3").state_dict(), tmp_path / "toy.pth")
    with pytest.raises(WeightsError, match=r"toy\.pth: ape has 1568 positions; expected 56 x 56"):
        load_checkpoint(tmp_path / "toy.pth")


def test_folder_is_loaded_as_its_description_says(tmp_path: Path) -> None:
    config = CatConfig(
        img_size=56, embed_dim=16, depths=(1, 1), num_heads=(1, 2), qk_scale=0.3, drop_path_rate=0.2
    )
    save_classifier(tmp_path, Cat(config, num_classes=2), classes=("a", "b"))
    found = load_checkpoint(tmp_path)
    assert found.name is None
    assert found.config == config
    assert found.classes == ("a", "b")


@pytest.mark.parametrize(
    "lost", ["ape", "layers.2.cpsa_blocks.1.attn.qkv.bias", "patch_embed.proj.weight"]
)
def test_published_size_without_a_tensor_is_refused(tmp_path: Path, lost: str) -> None:
    state = {name: tensor for name, tensor in TINY.state_dict().items() if name != lost}
    torch.save(state, tmp_path / "cat.pth")
    with pytest.raises(
        WeightsError,
        match=rf"the nearest: .* and cat_tiny differ in 1 tensors:\n  missing: {lost} ",
    ):
        load_checkpoint(tmp_path / "cat.pth")


def test_named_size_is_compared_with_the_tensors(tmp_path: Path) -> None:
    torch.save(TINY.state_dict(), tmp_path / "cat.pth")
    assert load_checkpoint(tmp_path / "cat.pth", model="cat_tiny").name == "cat_tiny"
    with pytest.raises(WeightsError, match=r"cat\.pth and cat_small differ in \d+ tensors:\n"):
        load_checkpoint(tmp_path / "cat.pth", model="cat_small")


def test_backbone_is_found_among_the_parts_of_a_detector(tmp_path: Path) -> None:
    backbone = from_reference(TINY.kwargs, TINY.state_dict())
    with torch.device("meta"):
        names = CatBackbone(backbone.config).state_dict()
    state = {f"backbone.{name}": torch.zeros(tensor.shape) for name, tensor in names.items()}
    torch.save(
        {"state_dict": state | {"neck.conv.bias": torch.zeros(3)}}, tmp_path / "detector.pth"
    )
    with pytest.raises(
        WeightsError, match=r"cat_tiny differ in 1 tensors:\n  unexpected: neck\.conv\.bias \(3,\)"
    ):
        load_checkpoint(tmp_path / "detector.pth")
    found = load_checkpoint(tmp_path / "detector.pth", allow_unexpected=True)
    assert found.name == "cat_tiny"
    assert found.is_classifier is False
