"""One AdamW in two groups, spared of decay by parts of names."""

from __future__ import annotations

from torch import nn

from pipelines.openmmlab.library import OPTIM_WRAPPER_CONSTRUCTORS, Config
from pipelines.openmmlab.optimizer import TwoGroups
from pipelines.openmmlab.params import FinetuneParams
from pipelines.openmmlab.recipe import optim_wrapper

PARAMS = FinetuneParams(backbone="p.checkpoint", data="d", weight_decay=0.05, clip_grad=2.0)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(2)
        self.head = nn.Linear(2, 2)
        self.head.bias.requires_grad_(False)


def test_norms_are_spared_of_decay_and_frozen_tensors_left_out() -> None:
    model = Toy()
    config = Config(optim_wrapper(PARAMS, lr=0.1, device="cpu"))
    assert OPTIM_WRAPPER_CONSTRUCTORS.get(config.pop("constructor")) is TwoGroups
    wrapper = TwoGroups(paramwise_cfg=config.pop("paramwise_cfg"), optim_wrapper_cfg=config)(model)
    decayed, spared = wrapper.optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    assert [id(tensor) for tensor in decayed["params"]] == [id(model.head.weight)]
    assert {id(tensor) for tensor in spared["params"]} == {id(model.norm1.weight), id(model.norm1.bias)}
    assert wrapper.clip_grad_kwargs == {"max_norm": 2.0, "norm_type": 2}
