"""The learning rate beside timm's scheduler as the reference drives it, and what weight decay leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.scheduler.cosine_lr import CosineLRScheduler

from cat_model.config import CatConfig
from cat_model.model import Cat
from pipelines.pretrain.optim import Schedule, make_optimizer, make_schedule
from tests.pipelines.pretrain.conftest import make_params


def test_schedule_equals_the_references_updates() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    rival = CosineLRScheduler(
        optimizer, t_initial=60, lr_min=1e-5, warmup_lr_init=1e-6, warmup_t=12, cycle_limit=1, t_in_epochs=False
    )
    schedule = Schedule(first_lr=1e-6, peak_lr=1e-3, final_lr=1e-5, num_warmup_updates=12, num_updates=60)
    for update in range(60):
        assert schedule.lr(update) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        rival.step_update(update)


def test_warmup_is_cut_to_a_short_run() -> None:
    schedule = make_schedule(make_params(Path("/data"), epochs=2, warmup_epochs=20), updates_per_epoch=10)
    rates = [schedule.lr(update) for update in range(20)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(2e-3 * 18 / 20, rel=2e-3)


def test_only_matrices_decay() -> None:
    model = Cat(CatConfig(img_size=28, embed_dim=8, depths=(1, 1), num_heads=(1, 2)), num_classes=3)
    optimizer = make_optimizer(model, make_params(Path("/data")))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays = {names[id(one)]: group["weight_decay"] for group in optimizer.param_groups for one in group["params"]}
    assert decays.keys() == set(names.values())
    free = {name for name, decay in decays.items() if decay == 0}
    assert "ape" in free
    assert any(name.endswith("relative_position_bias_table") for name in free)
    assert all(name.endswith("weight") and decays[name] == 0.05 for name in decays.keys() - free)
    assert not any(name.endswith(("qkv.weight", "proj.weight", "fc.weight")) for name in free)
