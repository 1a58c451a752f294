"""Checkpoints in the official layout: identified by their tensors, then loaded completely or
refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cat_model import (
    Cat,
    CatBackbone,
    WeightsError,
    from_reference,
    load_official_backbone,
    load_official_classifier,
)
from tests.cat_model.golden import load_vector
from tests.cat_model.weights.foreign import save_official

VECTOR = load_vector("cat_tiny_224")


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    """The reference's state_dict of CAT-T, including index buffers."""
    return VECTOR.state_dict()


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "raw": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 299},
    "state_dict of DDP": lambda state: {
        "state_dict": {f"module.{name}": value for name, value in state.items()}
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_official_layout_gives_the_reference_outputs(
    reference: dict[str, Tensor], tmp_path: Path, wrapping: str
) -> None:
    torch.save(WRAPPINGS[wrapping](reference), tmp_path / "cat.pth")
    model = load_official_classifier(tmp_path / "cat.pth").eval()
    expected = from_reference(VECTOR.kwargs, reference)
    assert isinstance(expected, Cat)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("load", [load_official_classifier, load_official_backbone])
def test_file_with_a_yacs_config_is_loaded_without_yacs(
    reference: dict[str, Tensor], tmp_path: Path, load: Callable[[Path], Cat | CatBackbone]
) -> None:
    save_official(tmp_path / "cat.pth", reference)
    expected = from_reference(VECTOR.kwargs, reference).state_dict()
    state = load(tmp_path / "cat.pth").state_dict()
    assert all(
        torch.equal(tensor, expected[name]) for name, tensor in state.items() if name in expected
    )
    assert len(state.keys() & expected.keys()) > 200


def test_unpublished_size_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(load_vector("toy").state_dict(), tmp_path / "cat.pth")
    with pytest.raises(
        WeightsError,
        match=r"holds no published size \(cat_tiny, cat_small, cat_base\), but .*embed_dim=32",
    ):
        load_official_classifier(tmp_path / "cat.pth")


def test_backbone_keeps_its_norms_and_is_not_a_classifier(tmp_path: Path) -> None:
    vector = load_vector("backbone_tiny_192x320")
    torch.save({"state_dict": vector.state_dict()}, tmp_path / "cat.pth")
    with pytest.raises(
        WeightsError, match=r"cat\.pth: is the backbone of cat_tiny without the norm and the head"
    ):
        load_official_classifier(tmp_path / "cat.pth")
    state = load_official_backbone(tmp_path / "cat.pth").state_dict()
    expected = from_reference(vector.kwargs, vector.state_dict(), backbone=True).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


def test_safetensors_file_gives_the_classifiers_trunk(
    reference: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(
        {name: value.contiguous() for name, value in reference.items()},
        tmp_path / "cat.safetensors",
    )
    backbone = load_official_backbone(tmp_path / "cat.safetensors", drop_path_rate=0.3)
    expected = from_reference(VECTOR.kwargs, reference).state_dict()
    shared = [name for name in backbone.state_dict() if not name.startswith("norm")]
    assert backbone.config.drop_path_rate == 0.3
    assert all(torch.equal(backbone.state_dict()[name], expected[name]) for name in shared)


def test_differences_from_the_nearest_size_are_listed(
    reference: dict[str, Tensor], tmp_path: Path
) -> None:
    broken = {name: value for name, value in reference.items() if name != "norm.bias"}
    torch.save(
        {**broken, "norm.weight": torch.zeros(3), "extra": torch.zeros(2)}, tmp_path / "cat.pth"
    )
    with pytest.raises(WeightsError) as caught:
        load_official_classifier(tmp_path / "cat.pth")
    text = str(caught.value)
    assert "holds none of cat_tiny, cat_small, cat_base; the nearest: " in text
    assert "missing: norm.bias (512,)" in text
    assert "unexpected: extra (2,)" in text
    assert "shape: norm.weight is (3,), the model needs (512,)" in text


class Payload:
    """The object that a malicious file would make torch run."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return Path(__file__).joinpath, ("never",)  # type: ignore[return-value]


@pytest.mark.parametrize("content", [{"model": Payload()}, {"model": 3}, [1, 2], {}])
def test_non_state_dict_is_refused_and_never_run(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "cat.pth")
    with pytest.raises(
        WeightsError, match=r"cat\.pth: (its pickle uses|holds no state_dict|holds a \w+, not)"
    ):
        load_official_classifier(tmp_path / "cat.pth")


def test_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat.pth").write_text("hello")
    with pytest.raises(WeightsError, match="is text, which begins 'hello'"):
        load_official_backbone(tmp_path / "cat.pth")
