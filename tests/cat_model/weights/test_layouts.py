"""State dicts of every known layout give the same tensors; others are refused, and the error names
the entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cat_model import WeightsError, from_reference, to_ours
from cat_model.weights.layouts import our_name, parse_weights, reference_name
from tests.cat_model.golden import TAGS, load_vector

TOY = load_vector("toy")
BACKBONE = load_vector("toy_backbone_100x140")
TOY_MAP = (56, 56)
BACKBONE_MAP = (56, 56)

State = dict[str, Tensor]
WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "raw": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3, "config": {"a": {"b": 1}}},
    "state_dict": lambda state: {"state_dict": state, "arch": "cat", "model": "cat_tiny"},
    "state_dict_ema": lambda state: {"state_dict_ema": state, "state_dict": None},
    "model_ema": lambda state: {"model_ema": state},
    "plain and averaged": lambda state: {
        "state_dict_ema": dict.fromkeys(state, torch.zeros(1)),
        "state_dict": state,
    },
    "twice": lambda state: {"state_dict": {"model": state}},
}


def equal(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


@pytest.fixture(scope="module")
def layouts() -> dict[str, tuple[State, State]]:
    """For each layout: a state_dict, and the tensors of our model for it."""
    classifier = from_reference(TOY.kwargs, TOY.state_dict()).state_dict()
    backbone = from_reference(BACKBONE.kwargs, BACKBONE.state_dict(), backbone=True).state_dict()
    return {
        "reference classifier": (TOY.state_dict(), classifier),
        "reference backbone": (BACKBONE.state_dict(), backbone),
        "our classifier": (classifier, classifier),
        "our backbone": (backbone, backbone),
    }


@given(
    layout=st.sampled_from(
        ["reference classifier", "reference backbone", "our classifier", "our backbone"]
    ),
    wrapping=st.sampled_from(sorted(WRAPPINGS)),
    prefixes=st.lists(
        st.sampled_from(["module.", "backbone.", "model.", "_orig_mod."]), max_size=3
    ),
    has_index=st.booleans(),
)
def test_any_prefix_and_wrapper_gives_the_same_tensors(
    layouts: dict[str, tuple[State, State]],
    layout: str,
    wrapping: str,
    prefixes: list[str],
    has_index: bool,
) -> None:
    state, ours = layouts[layout]
    kept = {
        name: tensor
        for name, tensor in state.items()
        if has_index or not name.endswith("position_index")
    }
    prefixed = {"".join(prefixes) + name: tensor for name, tensor in kept.items()}
    assert equal(to_ours(WRAPPINGS[wrapping](prefixed), map_hw=TOY_MAP), ours)


@pytest.mark.parametrize("tag", TAGS)
def test_names_convert_to_ours_and_back(tag: str) -> None:
    names = [name for name in load_vector(tag).state_dict() if not name.endswith("position_index")]
    ours = [our_name(name) for name in names]
    assert len(set(ours)) == len(names)
    assert [reference_name(name) for name in ours] == names
    assert [our_name(name) for name in ours] == ours


def test_wrapped_reference_state_builds_the_same_model() -> None:
    state = {f"module.{name}": tensor for name, tensor in TOY.state_dict().items()}
    wrapped = from_reference(TOY.kwargs, {"model": state, "epoch": 3}).state_dict()
    assert equal(wrapped, from_reference(TOY.kwargs, TOY.state_dict()).state_dict())


def test_index_buffers_are_separated_from_weights() -> None:
    weights = parse_weights({"model": TOY.state_dict()}, map_hw=TOY_MAP, source="toy.pth")
    assert all(name.endswith(".relative_position_index") for name in weights.dropped)
    assert len(weights.dropped) + len(weights.tensors) == len(TOY.state_dict())
    assert weights.sources["stages.1.downsample.norm.weight"] == "layers.0.downsample.norm.weight"


def ape(tensor: Tensor, **others: Tensor) -> Tensor:
    return to_ours({"ape": tensor, "norm.bias": torch.zeros(1), **others}, map_hw=(3, 4))["ape"]


def test_flat_ape_of_the_models_length_gets_the_models_map() -> None:
    flat = torch.arange(24.0).view(1, 12, 2)
    assert torch.equal(ape(flat), flat.view(1, 3, 4, 2))


def test_flat_ape_of_another_length_must_be_square() -> None:
    assert ape(torch.zeros(1, 49, 2)).shape == (1, 7, 7, 2)
    with pytest.raises(
        WeightsError, match="ape has 15 positions; expected 3 x 4, the model's map, or a square"
    ):
        ape(torch.zeros(1, 15, 2))


def test_ape_layout_is_inferred_from_the_other_names() -> None:
    """The shape (1, 4, 4, 4) does not show which dimension is the channels."""
    cube = torch.arange(64.0).view(1, 4, 4, 4)
    assert torch.equal(ape(cube, **{"stages.0.x": cube}), cube)
    assert torch.equal(ape(cube, **{"layers.0.x": cube}), cube.permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {},
            (
                "holds no state_dict, neither at the top level nor under model, state_dict, "
                "state_dict_ema, model_ema"
            ),
        ),
        ({"model": {"epoch": 3}}, "holds no state_dict"),
        ({"weights": {"ape": torch.zeros(1)}}, "holds no state_dict"),
        (
            {"norm.bias": torch.zeros(1), "epoch": 3},
            "entries that are not plain tensors by name: 'epoch' is of type int",
        ),
        ({3: torch.zeros(1)}, "entries that are not plain tensors by name: 3 is not a string"),
        ({"ape": torch.zeros(3).to_sparse()}, "'ape' is not dense"),
        ({"ape": torch.zeros(3, device="meta")}, "'ape' is not dense"),
        (
            {"ape": torch.zeros(1).expand(10**6, 10**6)},
            r"'ape' is \(1000000, 1000000\), larger than its stored data",
        ),
        (
            {"norm.bias": torch.zeros(1), "module.norm.bias": torch.ones(1)},
            r"norm\.bias and module\.norm\.bias both map to norm\.bias; keep one",
        ),
        (
            {"layers.0.x": torch.zeros(1), "stages.0.x": torch.zeros(1)},
            r"mixes two layouts: layers\.0\.x is one of the reference's names, stages\.0\.x one of",
        ),
    ],
)
def test_non_state_dict_is_refused(content: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        to_ours(content, map_hw=(3, 4))
