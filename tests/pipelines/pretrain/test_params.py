"""What the params of a pretraining stage accept, refuse and imply."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from cat_model import CONFIGS
from orchestrator.recipe import recipe_audit
from pipelines.cat.params import PUBLISHED, ModelParams, img_size_of
from pipelines.pretrain.kind import KIND
from pipelines.pretrain.network import make_config
from pipelines.pretrain.params import PretrainParams


def parse(**fields: Any) -> PretrainParams:
    return PretrainParams.model_validate_json(json.dumps({"data": "/data", **fields}))


def test_defaults_are_the_reference_recipe_for_1024_images() -> None:
    params = parse()
    assert (params.peak_lr, params.first_lr, params.final_lr) == pytest.approx((1e-3, 1e-6, 1e-5))
    assert params.epochs == 300
    assert params.warmup_epochs == 20
    assert params.weight_decay == 0.05
    assert params.clip_grad == 5.0


def test_lr_follows_the_batch_unless_given() -> None:
    assert parse(batch_size=256).peak_lr == pytest.approx(2.5e-4)
    given = parse(batch_size=256, lr=3e-3)
    assert (given.peak_lr, given.first_lr, given.final_lr) == pytest.approx((3e-3, 3e-6, 3e-5))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"epoch": 3}, r"(?s)epoch\n.*Extra inputs are not permitted"),
        ({"epochs": 0}, r"(?s)epochs\n.*greater than or equal to 1"),
        ({"data_fraction": 0}, r"(?s)data_fraction\n.*greater than 0"),
        ({"data_fraction": 1.5}, r"(?s)data_fraction\n.*less than or equal to 1"),
        ({"batch_size": 64.5}, r"(?s)batch_size\n.*valid integer"),
        ({"batch_size": 33}, r"batch_size 33 is odd, but mixup and cutmix mix images in pairs"),
        ({"lr": 1e-4, "min_lr": 1e-3}, r"min_lr 0.001 exceeds the peak learning rate, lr 0.0001"),
        (
            {"lr": 1e-4, "warmup_lr": 1e-3},
            r"warmup_lr 0.001 exceeds the peak learning rate, lr 0.0001",
        ),
        (
            {"scale": [0.9, 0.5]},
            r"scale: minimum 0.9 exceeds maximum 0.5; write \[0.5, 0.9\]",
        ),
        ({"auto_augment": "rand-x9"}, r"(?s)auto_augment\n.*should match pattern"),
        ({"precision": "fp8"}, r"(?s)precision\n.*'fp32', 'bf16' or 'fp16'"),
        ({"hflip": 1.5}, r"(?s)hflip\n.*less than or equal to 1"),
        ({"model": "cat_tine"}, r"'cat_tiny', 'cat_small' or 'cat_base'"),
        ({"model": {"depths": [1, 1]}}, r"num_heads has 4 stages, but depths has 2"),
        (
            {"img_size": 16, "model": {"patch_size": 32}},
            r"img_size 16 is less than the model's patch_size 32",
        ),
        ({"reset_head": True}, r"reset_head: true needs `weights`, whose head it replaces"),
        ({"model": {"img_size": 16, "patch_size": 32}}, r"patch_size 32 exceeds img_size 16"),
        (
            {"model": {"patch_embed": "slice", "patch_size": 8}},
            r"patch_size 8 cannot be used with patch_embed: slice, which needs 4",
        ),
        (
            {"model": {"embed_dim": 32}},
            r"num_heads\[0\] = 3 does not divide the stage's channels, .* = 32",
        ),
    ],
)
def test_faults_are_named(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        parse(**fields)


def test_odd_batches_are_allowed_without_mixing() -> None:
    assert parse(batch_size=33, mixup=0, cutmix=0).batch_size == 33


def test_key_ignores_params_that_do_not_affect_results() -> None:
    changed = parse(data="/elsewhere", loader_workers=0, checkpoint_every=7)
    assert changed.in_key() == parse().in_key()
    assert parse(max_broken_images=0).in_key() != parse().in_key()


@pytest.mark.parametrize(
    ("fields", "written"),
    [
        (
            {},
            {"lr": 1e-3, "min_lr": 1e-5, "warmup_lr": 1e-6, "img_size": 224, "drop_path_rate": 0.1},
        ),
        ({"batch_size": 80}, {"lr": 7.8125e-05}),
        ({"batch_size": 3000}, {"lr": 0.0029296875000001}),  # a rounded number
        ({"lr": 3e-3}, {"min_lr": 3e-5, "warmup_lr": 3e-6}),
        ({"model": "cat_base"}, {"drop_path_rate": 0.3}),
        ({"model": "cat_base"}, {"model": {"depths": [1, 1, 6, 1], "drop_path_rate": 0.3}}),
        ({"model": {"img_size": 56}}, {"img_size": 56, "drop_path_rate": 0.1}),
    ],
)
def test_explicit_default_has_the_same_key(fields: dict[str, Any], written: dict[str, Any]) -> None:
    left_out, spelled = parse(**fields), parse(**{**fields, **written})
    assert spelled.in_key() == left_out.in_key()
    assert recipe_audit(spelled) == recipe_audit(left_out)
    assert make_config(spelled) == make_config(left_out)
    rates = [(params.peak_lr, params.final_lr, params.first_lr) for params in (spelled, left_out)]
    assert rates[0] == rates[1]  # to the last bit: their results are


@pytest.mark.parametrize(
    ("fields", "other"),
    [
        ({}, {"lr": 2e-3}),
        ({"batch_size": 512}, {"lr": 1e-3}),
        ({"lr": 3e-3}, {"min_lr": 1e-5}),
        ({}, {"img_size": 192}),
        ({"model": "cat_small"}, {"drop_path_rate": 0.1}),
        ({"model": "cat_small"}, {"model": {"drop_path_rate": 0.1}}),
    ],
)
def test_changed_value_changes_the_key_and_is_listed(
    fields: dict[str, Any], other: dict[str, Any]
) -> None:
    left_out, changed = parse(**fields), parse(**{**fields, **other})
    assert changed.in_key() != left_out.in_key()
    assert recipe_audit(changed).keys() >= other.keys()


def test_published_settings_equal_those_of_the_network() -> None:
    assert {name: make_config(parse(model=name)) for name in CONFIGS} == dict(CONFIGS)
    assert {
        name: make_config(parse(model=settings.model_dump()))
        for name, settings in PUBLISHED.items()
    } == CONFIGS


def test_overlay_reaches_into_the_model() -> None:
    params = parse(model={"embed_dim": 96, "img_size": 56}).overlay(
        {"model.embed_dim": 48, "lr": 1e-3}
    )
    assert isinstance(params.model, ModelParams)
    assert params.model.embed_dim == 48
    assert img_size_of(params.model) == 56
    assert params.lr == 1e-3


def test_input_size_is_the_models_own_unless_given() -> None:
    assert parse().input_size == 224
    assert parse(model={"img_size": 56}).input_size == 56
    assert parse(model={"img_size": 56}, img_size=112).input_size == 112


def test_kind_maximises_top1() -> None:
    assert KIND.metrics(parse())[0] == "top1"
    assert KIND.params is PretrainParams
