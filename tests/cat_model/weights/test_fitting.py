"""Loading into a model reports what was mapped, resized, new and left out, and does nothing that
was not allowed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cat_model import Cat, CatBackbone, CatConfig, WeightsError, from_reference, load_weights
from cat_model.embedding import resize_ape
from tests.cat_model.golden import load_vector
from tests.cat_model.weights.foreign import save_official

TOY = load_vector("toy")
NORMS = tuple(f"norm{i}.{part}" for i in range(4) for part in ("weight", "bias"))


@pytest.fixture
def classifier() -> Cat:
    model = from_reference(TOY.kwargs, TOY.state_dict()).eval()
    assert isinstance(model, Cat)
    return model


def new(config: CatConfig, *, seed: int = 0) -> Cat:
    torch.manual_seed(seed)
    return Cat(config, num_classes=10).eval()


def tensors(model: Cat | CatBackbone) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_official_file_fills_a_model_and_is_reported(classifier: Cat, tmp_path: Path) -> None:
    save_official(tmp_path / "toy.pth", TOY.state_dict())
    model = new(classifier.config)
    report = load_weights(model, tmp_path / "toy.pth")
    assert all(
        torch.equal(tensor, classifier.state_dict()[name])
        for name, tensor in model.state_dict().items()
    )
    assert report.mapped.keys() == model.state_dict().keys()
    assert report.mapped["stages.0.blocks.0.cpsa.norm1.bias"] == "layers.0.cpsa_blocks.0.norm1.bias"
    assert report.resized == {}
    assert report.missing == ()
    assert report.unexpected == ()
    assert set(report.dropped) == {
        name for name in TOY.state_dict() if name.endswith("relative_position_index")
    }


def test_classifier_becomes_a_backbone_with_bitwise_equal_maps(classifier: Cat) -> None:
    backbone = CatBackbone(classifier.config).eval()
    report = load_weights(backbone, {"model": TOY.state_dict()}, from_classifier=True)
    assert sorted(report.missing) == sorted(NORMS)
    assert report.unexpected == ("norm.weight", "norm.bias", "head.weight", "head.bias")
    with torch.no_grad():
        maps = zip(
            backbone.forward_maps(TOY.image()), classifier.forward_maps(TOY.image()), strict=True
        )
        assert all(torch.equal(ours, theirs) for ours, theirs in maps)


def test_backbone_refuses_a_classifier_unless_allowed(classifier: Cat) -> None:
    with pytest.raises(WeightsError, match=r"(?s)unexpected: head\.bias \(10,\)") as caught:
        load_weights(CatBackbone(classifier.config), TOY.state_dict())
    assert all(f"missing: {name} " in str(caught.value) for name in NORMS)


def test_backbone_with_half_of_its_norms_is_refused(classifier: Cat) -> None:
    state = tensors(CatBackbone(classifier.config))
    del state["norm1.bias"]
    with pytest.raises(WeightsError, match=r"differ in 1 tensors:\n  missing: norm1\.bias"):
        load_weights(CatBackbone(classifier.config), state, from_classifier=True)


def test_another_image_size_needs_resizing(classifier: Cat) -> None:
    model = new(replace(classifier.config, img_size=(84, 140)))
    before = tensors(model)
    with pytest.raises(
        WeightsError, match=r"shape: ape is \(1, 56, 56, 32\), the model needs \(1, 42, 70, 32\)"
    ):
        load_weights(model, TOY.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    report = load_weights(model, TOY.state_dict(), resize=True)
    assert report.resized == {"ape": ((1, 56, 56, 32), (1, 42, 70, 32))}
    assert "resized: ape (1, 56, 56, 32) -> (1, 42, 70, 32)" in report.lines()


def test_resized_embedding_equals_what_the_model_computes(classifier: Cat) -> None:
    model = new(replace(classifier.config, img_size=(84, 140)))
    load_weights(model, TOY.state_dict(), resize=True)
    image = torch.randn(1, 3, 84, 140)
    with torch.no_grad():
        assert torch.equal(model(image), classifier(image))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn])
def test_weights_of_every_float_type_can_be_resized(classifier: Cat, dtype: torch.dtype) -> None:
    state = TOY.state_dict()
    model = new(replace(classifier.config, img_size=56))
    load_weights(model, state | {"ape": state["ape"].to(dtype)}, resize=True)
    expected = resize_ape(state["ape"].to(dtype).to(torch.float64).view(1, 56, 56, 32), (28, 28))
    assert model.ape is not None
    torch.testing.assert_close(model.ape.data.double(), expected, rtol=0.1, atol=0.05)


def test_missing_tensors_keep_values_only_if_allowed(classifier: Cat) -> None:
    state = {name: tensor for name, tensor in TOY.state_dict().items() if name != "norm.bias"}
    model = new(classifier.config)
    before = tensors(model)["norm.bias"]
    with pytest.raises(WeightsError, match=r"differ in 1 tensors:\n  missing: norm\.bias \(256,\)"):
        load_weights(model, state)
    report = load_weights(model, state, allow_missing=True)
    assert report.missing == ("norm.bias",)
    assert torch.equal(tensors(model)["norm.bias"], before)


def test_unexpected_tensors_are_left_out_only_if_allowed(classifier: Cat) -> None:
    state = TOY.state_dict() | {"neck.conv.weight": torch.zeros(2, 3)}
    with pytest.raises(
        WeightsError, match=r"differ in 1 tensors:\n  unexpected: neck\.conv\.weight \(2, 3\)"
    ):
        load_weights(new(classifier.config), state)
    report = load_weights(new(classifier.config), state, allow_unexpected=True)
    assert report.unexpected == ("neck.conv.weight",)
    assert "left out: neck.conv.weight" in report.lines()


def test_wrong_shape_is_never_allowed(classifier: Cat) -> None:
    state = TOY.state_dict() | {"head.bias": torch.zeros(3)}
    model = new(classifier.config)
    with pytest.raises(WeightsError, match=r"shape: head\.bias is \(3,\), the model needs \(10,\)"):
        load_weights(model, state, allow_missing=True, allow_unexpected=True, resize=True)


def test_from_classifier_is_refused_for_a_classifier(classifier: Cat) -> None:
    with pytest.raises(ValueError, match="from_classifier is for a CatBackbone, got a Cat"):
        load_weights(classifier, TOY.state_dict(), from_classifier=True)


def test_from_reference_allows_no_difference() -> None:
    with pytest.raises(WeightsError, match=r"(?s)missing: norm0\.bias.*unexpected: head\.bias"):
        from_reference(TOY.kwargs, TOY.state_dict(), backbone=True)
    with pytest.raises(
        WeightsError, match=r"shape: ape is \(1, 28, 28, 32\), the model needs \(1, 56, 56, 32\)"
    ):
        from_reference(TOY.kwargs, TOY.state_dict() | {"ape": torch.zeros(1, 784, 32)})


def test_error_names_the_file_for_any_fault(classifier: Cat, tmp_path: Path) -> None:
    torch.save({"weights": {}}, tmp_path / "cat.pth")
    with pytest.raises(WeightsError, match=r"cat\.pth: holds no state_dict"):
        load_weights(classifier, tmp_path / "cat.pth")
    torch.save({"norm.bias": torch.zeros(3)}, tmp_path / "cat.pth")
    with pytest.raises(
        WeightsError, match=r"cat\.pth and a Cat differ in 170 tensors:\n"
    ) as caught:
        load_weights(classifier, tmp_path / "cat.pth")
    assert "shape: norm.bias is (3,), the model needs (256,)" in str(caught.value)
