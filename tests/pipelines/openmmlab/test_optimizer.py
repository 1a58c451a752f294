"""One AdamW in few groups: parts of names exclude parameters from weight decay, and layer-wise
decay lowers the learning rate with each depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cat_model import CONFIGS, CatBackbone
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.library import OPTIM_WRAPPER_CONSTRUCTORS, Config
from pipelines.openmmlab.optimizer import FewGroups
from pipelines.openmmlab.recipe import cosine_end, optim_wrapper

PARAMS = DetectionParams(
    method="fcos", backbone="p.checkpoint", data="d", lr=0.1, weight_decay=0.05, clip_grad=2.0
)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(2)
        self.head = nn.Linear(2, 2)
        self.head.bias.requires_grad_(False)


def test_norms_have_no_decay_and_frozen_tensors_no_group() -> None:
    model = Toy()
    config = Config(optim_wrapper(PARAMS, device="cpu"))
    assert OPTIM_WRAPPER_CONSTRUCTORS.get(config.pop("constructor")) is FewGroups
    wrapper = FewGroups(paramwise_cfg=config.pop("paramwise_cfg"), optim_wrapper_cfg=config)(model)
    decayed, spared = wrapper.optimizer.param_groups
    assert decayed["weight_decay"] == 0.05
    assert spared["weight_decay"] == 0.0
    assert [id(tensor) for tensor in decayed["params"]] == [id(model.head.weight)]
    assert {id(tensor) for tensor in spared["params"]} == {
        id(model.norm1.weight),
        id(model.norm1.bias),
    }
    assert wrapper.clip_grad_kwargs == {"max_norm": 2.0, "norm_type": 2}


def _groups(**fields: Any) -> tuple[Any, list[dict[str, Any]]]:
    params = DetectionParams(method="fcos", backbone="p.checkpoint", data="d", **fields)
    model: Any = nn.Module()
    with torch.device("meta"):
        model.backbone, model.head = CatBackbone(CONFIGS["cat_small"]), nn.Linear(2, 2)
    config = Config(optim_wrapper(params, device="cpu"))
    config.pop("constructor")
    wrapper = FewGroups(paramwise_cfg=config.pop("paramwise_cfg"), optim_wrapper_cfg=config)(model)
    return model, wrapper.optimizer.param_groups


def _rates(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, float]:
    of_tensor = {id(tensor): group["lr"] for group in groups for tensor in group["params"]}
    return {name: of_tensor[id(tensor)] for name, tensor in model.named_parameters()}


def test_layer_decay_lowers_lr_towards_the_first_layers() -> None:
    model, groups = _groups(lr=1.0, layer_decay=0.5)
    rates = _rates(model, groups)
    expected = {
        "head.weight": 1.0,
        "backbone.norm0.weight": 1.0,
        "backbone.stages.3.blocks.0.cpsa.mlp.fc1.weight": 0.5,
        "backbone.stages.3.downsample.reduction.weight": 0.5,
        "backbone.stages.2.blocks.2.cpsa.norm1.weight": 0.5**2,
        "backbone.stages.2.blocks.0.cpsa.norm1.weight": 0.5**4,
        "backbone.stages.1.blocks.0.pre_ipsa.attn.relative_position_bias_table": 0.5**5,
        "backbone.stages.0.blocks.0.cpsa.attn.qkv.weight": 0.5**6,
        "backbone.ape": 0.5**7,
        "backbone.patch_embed.proj.weight": 0.5**7,
    }
    assert {name: rates[name] for name in expected} == expected
    assert len(groups) == 2 * 8
    assert sum(len(group["params"]) for group in groups) == len(rates)


def test_without_layer_decay_two_groups_have_the_same_lr() -> None:
    model, groups = _groups(lr=1.0)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(1.0, 0.05), (1.0, 0.0)]
    assert set(_rates(model, groups).values()) == {1.0}


@pytest.mark.parametrize(("fidelity", "weight_decay"), [("intent", 0.0), ("reference", 0.05)])
def test_position_embedding_decays_only_with_reference_fidelity(
    fidelity: str, weight_decay: float
) -> None:
    model, groups = _groups(fidelity=fidelity)
    (decay,) = {
        group["weight_decay"]
        for group in groups
        for tensor in group["params"]
        if tensor is model.backbone.ape
    }
    (bias_decay,) = {
        group["weight_decay"]
        for group in groups
        for tensor in group["params"]
        if tensor is model.head.bias
    }
    assert decay == weight_decay
    assert bias_decay == 0.05


def test_cosine_ends_at_a_share_of_each_groups_lr() -> None:
    params = DetectionParams(
        method="fcos", backbone="p.c", data="d", lr=1e-2, min_lr=1e-3, schedule="cosine"
    )
    assert cosine_end(params) == {"eta_min": 1e-3}
    assert cosine_end(params.model_copy(update={"layer_decay": 0.9})) == {
        "eta_min_ratio": pytest.approx(0.1)
    }
