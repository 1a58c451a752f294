"""The learning rate compared with timm's scheduler as the reference uses it, and the parameters
that weight decay skips."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler.cosine_lr import CosineLRScheduler

from cat_model.config import CatConfig
from cat_model.model import Cat
from pipelines.pretrain.optim import LrSchedule, make_optimizer, make_schedule, set_lr
from tests.pipelines.pretrain.conftest import make_params


def test_schedule_equals_the_reference_schedule() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    rival = CosineLRScheduler(
        optimizer,
        t_initial=60,
        lr_min=1e-5,
        warmup_lr_init=1e-6,
        warmup_t=12,
        cycle_limit=1,
        t_in_epochs=False,
    )
    schedule = LrSchedule(
        first_lr=1e-6, peak_lr=1e-3, final_lr=1e-5, num_warmup_updates=12, num_updates=60
    )
    for update in range(60):
        assert schedule.lr(update) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        rival.step_update(update)


def test_the_reference_lr_schedule_lags_by_an_update() -> None:
    params = make_params(Path("/data"), lr=None, epochs=300, batch_size=1024, warmup_epochs=20)
    schedule = make_schedule(params, updates_per_epoch=1251)
    warmed = 20 * 1251
    assert schedule.lr(0) == schedule.lr(1) == pytest.approx(1e-6)
    # The last position of the warm-up, one update late.
    assert schedule.lr(warmed) == pytest.approx(1e-3, rel=1e-4)
    assert schedule.lr(warmed + 1) == pytest.approx(0.989e-3, rel=1e-3)
    assert schedule.lr(300 * 1251 - 1) == pytest.approx(1e-5, rel=1e-4)


def test_warmup_is_shortened_to_a_short_run() -> None:
    schedule = make_schedule(
        make_params(Path("/data"), epochs=2, warmup_epochs=20), updates_per_epoch=10
    )
    rates = [schedule.lr(update) for update in range(20)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(2e-3 * 18 / 20, rel=2e-3)


def test_only_matrices_decay() -> None:
    model = Cat(CatConfig(img_size=28, embed_dim=8, depths=(1, 1), num_heads=(1, 2)), num_classes=3)
    optimizer = make_optimizer(model, make_params(Path("/data")))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays = {
        names[id(one)]: group["weight_decay"]
        for group in optimizer.param_groups
        for one in group["params"]
    }
    assert decays.keys() == set(names.values())
    free = {name for name, decay in decays.items() if decay == 0}
    assert "ape" in free
    assert any(name.endswith("relative_position_bias_table") for name in free)
    assert all(name.endswith("weight") and decays[name] == 0.05 for name in decays.keys() - free)
    assert not any(name.endswith(("qkv.weight", "proj.weight", "fc.weight")) for name in free)


def _model() -> Cat:
    torch.manual_seed(0)
    return Cat(CatConfig(img_size=28, embed_dim=8, depths=(1, 2), num_heads=(1, 2)), num_classes=3)


def _of_parameters(model: Cat, optimizer: torch.optim.Optimizer, field: str) -> dict[str, Any]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(one)]: group[field] for group in optimizer.param_groups for one in group["params"]
    }


def test_layer_decay_scales_the_lr_by_depth() -> None:
    model = _model()
    optimizer = make_optimizer(model, make_params(Path("/data"), layer_decay=0.5))
    set_lr(optimizer, 1e-2)
    rates = _of_parameters(model, optimizer, "lr")
    # deepest first: head and norm, the two groups of stage 1, the group of stage 0, embedding and
    # position
    depth_of = {
        "head.fc.weight": 0,
        "stages.1.blocks.1.cpsa.norm1.bias": 1,
        "stages.1.blocks.0.pre_ipsa.mlp.fc1.weight": 2,
        "stages.1.downsample.reduction.weight": 2,
        "stages.0.blocks.0.cpsa.attn.qkv.weight": 3,
        "patch_embed.proj.weight": 4,
        "ape": 4,
    }
    assert {name: rates[name] for name in depth_of} == pytest.approx(
        {name: 1e-2 * 0.5**depth for name, depth in depth_of.items()}
    )
    plain = _of_parameters(model, make_optimizer(model, make_params(Path("/data"))), "weight_decay")
    assert _of_parameters(model, optimizer, "weight_decay") == plain


@pytest.mark.parametrize("layer_decay", [1.0, 0.7])
def test_groups_equal_those_of_timms_factory(layer_decay: float) -> None:
    model = _model()
    params = make_params(Path("/data"), layer_decay=layer_decay)
    options: dict[str, Any] = {} if layer_decay == 1 else {"layer_decay": layer_decay}
    rival = create_optimizer_v2(model, "adamw", lr=params.first_lr, weight_decay=0.05, **options)
    ours = make_optimizer(model, params)
    for field in ("weight_decay", *(["lr_scale"] if options else [])):
        assert _of_parameters(model, ours, field) == _of_parameters(model, rival, field)


def test_betas_and_eps_come_from_the_params() -> None:
    optimizer = make_optimizer(_model(), make_params(Path("/data"), betas=[0.8, 0.95], eps=1e-6))
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {
        ((0.8, 0.95), 1e-6)
    }


def test_fused_updates_differ_from_plain_only_by_rounding() -> None:
    fused, plain = _model(), copy.deepcopy(_model())
    optimizers = [
        make_optimizer(model, make_params(Path("/data"), fused_optimizer=is_fused))
        for model, is_fused in ((fused, True), (plain, False))
    ]
    assert [optimizer.param_groups[0]["fused"] for optimizer in optimizers] == [True, None]
    for _ in range(3):
        for model, optimizer in zip((fused, plain), optimizers, strict=True):
            set_lr(optimizer, 1e-3)
            model(torch.ones(2, 3, 28, 28)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    rivals = plain.state_dict()
    for name, tensor in fused.state_dict().items():
        # unused parameters follow rounding noise: a few steps at most
        assert (
            torch.allclose(tensor, rivals[name], atol=1e-6)
            or (tensor - rivals[name]).abs().max() < 6.1e-3
        ), name
