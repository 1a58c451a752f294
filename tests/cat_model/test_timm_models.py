"""CAT supports what timm users expect of any timm model: by name, through timm's own functions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from cat_model import CONFIGS, Cat, CatBackbone, CatConfig, to_ours
from tests.cat_model.golden import load_vector

PUBLISHED_PARAMETERS = {"cat_tiny": 16_870_996, "cat_small": 37_294_258, "cat_base": 51_531_922}
SMALL: dict[str, Any] = {
    "embed_dim": 16,
    "num_heads": (1, 2, 4, 8),
    "depths": (1, 1, 2, 1),
    "img_size": 64,
}
"""Arguments with which any of the named models runs quickly."""


def create(name: str = "cat_tiny", **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **(SMALL | kwargs))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CONFIGS)
def test_model_names_give_the_published_sizes(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert name in timm.list_models("cat_*")
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED_PARAMETERS[name]
    assert model.config == CONFIGS[name]


def test_unpublished_cat_t_v2_is_not_registered() -> None:
    assert [name for name in timm.list_models("cat_*") if "v2" in name] == []


def test_arguments_reach_the_network() -> None:
    with torch.device("meta"):
        model = timm.create_model(
            "cat_small", num_classes=7, drop_path_rate=0.25, img_size=112, in_chans=1
        )
    assert model.config == replace(
        CONFIGS["cat_small"], drop_path_rate=0.25, img_size=112, in_chans=1
    )
    assert model.get_classifier().out_features == 7
    assert max(m.drop_prob for m in model.modules() if isinstance(m, DropPath)) == 0.25


def test_device_and_dtype_apply_when_the_model_is_made() -> None:
    assert next(create(device="meta").parameters()).is_meta
    assert {p.dtype for p in create(dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_model_made_on_meta_and_loaded_is_complete(images: Tensor) -> None:
    model, filled = create().eval(), create(device="meta").eval()
    filled.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(filled(images), model(images))


def test_empty_batch_gives_no_logits() -> None:
    assert create(num_classes=5)(torch.zeros(0, 3, 64, 50)).shape == (0, 5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"window": 7}, "unknown CAT fields window; known: .*window_size"),
        ({"feature_cls": "list", "features_only": True}, "feature_cls must be 'getter'"),
        ({"dynamic_img_size": False}, "a CAT takes images of any size"),
        ({"img_size": 0}, "img_size must be one or two whole numbers of pixels"),
        ({"img_size": (64, -64)}, "img_size must be one or two whole numbers of pixels"),
        ({"img_size": 3}, "img_size must be at least a patch"),
        ({"in_chans": 0}, "in_chans must be a whole number from 1"),
        ({"num_heads": (1, 2, 4, 7)}, "num_heads must divide the width"),
        ({"mlp_ratio": 0.05}, "mlp_ratio must leave a channel of embed_dim 16"),
        ({"window_size": 0}, "window_size must be a whole number from 1"),
        ({"num_classes": -1}, "num_classes must be a whole number"),
        ({"pretrained": True}, "No pretrained weights exist for cat_tiny"),
    ],
)
def test_wrong_arguments_are_named_with_their_constraint(
    kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        create(**kwargs)


def test_features_equal_the_intermediates(images: Tensor) -> None:
    features, model = create(features_only=True).eval(), create().eval()
    with torch.no_grad():
        maps = model.forward_intermediates(images, intermediates_only=True)
        assert all(
            torch.equal(ours, expected)
            for ours, expected in zip(features(images), maps, strict=True)
        )
        model.ape.zero_()
        without = model.forward_intermediates(images, intermediates_only=True)
    assert not torch.allclose(without[0], maps[0])


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 3), (0,), (-1,)])
def test_features_match_their_stated_channels_and_reductions(out_indices: tuple[int, ...]) -> None:
    features = create(features_only=True, out_indices=out_indices, img_size=(64, 96)).eval()
    maps = features(torch.zeros(1, 3, 64, 96))
    stated = zip(features.feature_info.channels(), features.feature_info.reduction(), strict=True)
    assert [tuple(x.shape[1:]) for x in maps] == [(c, 64 // r, 96 // r) for c, r in stated]
    assert len(maps) == len(out_indices)


@pytest.mark.filterwarnings(
    "ignore:NOTE. The nodes obtained by tracing"
)  # a torchvision warning: DropPath is train only
@pytest.mark.parametrize("feature_cls", ["hook", "fx"])
def test_other_timm_feature_extractors_give_the_same_maps(images: Tensor, feature_cls: str) -> None:
    expected = create(features_only=True).eval()(images)
    in_nhwc = create(features_only=True, feature_cls=feature_cls).eval()(
        images
    )  # as the stages return them
    for ours, theirs in zip(in_nhwc, expected, strict=True):
        torch.testing.assert_close(ours.permute(0, 3, 1, 2), theirs, rtol=0, atol=1e-6)


def test_features_equal_backbone_maps_before_its_norms(images: Tensor) -> None:
    features = create(features_only=True).eval()
    backbone = CatBackbone(replace(CONFIGS["cat_tiny"], **SMALL)).eval()
    backbone.load_state_dict(features.model.state_dict(), strict=False)
    for i, (normed, raw) in enumerate(zip(backbone(images), features(images), strict=True)):
        norm = backbone.get_submodule(f"norm{i}")
        torch.testing.assert_close(normed, norm(raw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def test_intermediates_support_both_layouts_and_optional_norm(images: Tensor) -> None:
    model = create().eval()
    last, maps = model.forward_intermediates(images, indices=2, norm=True, output_fmt="NHWC")
    assert torch.equal(last, model.forward_features(images))
    assert torch.equal(maps[-1], last)
    assert [x.shape[-1] for x in maps] == [64, 128]
    with pytest.raises(ValueError, match="output_fmt must be NCHW or NHWC, got 'NLC'"):
        model.forward_intermediates(images, output_fmt="NLC")


def test_stop_early_skips_later_stages(images: Tensor) -> None:
    model = create().eval()
    model.stages[2] = nn.Identity()  # would fail at stage 3
    last, maps = model.forward_intermediates(images, indices=[0, 1], stop_early=True)
    assert torch.equal(last.permute(0, 3, 1, 2), maps[-1])


def test_pruning_keeps_what_the_maps_need(images: Tensor) -> None:
    expected = (
        create().eval().forward_intermediates(images, indices=[0, 1], intermediates_only=True)
    )
    pruned = create().eval()
    assert pruned.prune_intermediate_layers([0, 1]) == [0, 1]
    maps = pruned.forward_intermediates(images, intermediates_only=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(maps, expected, strict=True))
    assert isinstance(pruned.norm, nn.Identity)
    assert pruned.num_classes == 0


def test_pruning_removes_only_what_was_requested() -> None:
    whole = create(num_classes=5)
    whole.prune_intermediate_layers([3], prune_head=False)
    assert isinstance(whole.norm, nn.LayerNorm)
    assert whole.num_classes == 5
    whole.prune_intermediate_layers([3], prune_norm=True, prune_head=False)
    assert isinstance(whole.norm, nn.Identity)
    with pytest.raises(ValueError, match="prune_head must be True when stages are removed"):
        whole.prune_intermediate_layers([1], prune_head=False)


def test_pruned_model_gets_a_classifier_of_its_last_width(images: Tensor) -> None:
    model = create().eval()
    model.prune_intermediate_layers([1])
    model.reset_classifier(4, "avg")
    assert model(images).shape == (2, 4)
    assert model.num_features == 32
    assert [info["num_chs"] for info in model.feature_info] == [16, 32]


@pytest.mark.parametrize(("pool", "width"), [("avg", 128), ("max", 128), ("catavgmax", 256)])
def test_head_can_be_removed_and_restored(images: Tensor, pool: str, width: int) -> None:
    model = create().eval()
    model.reset_classifier(0, pool)
    assert model(images).shape == (2, width)
    assert torch.equal(
        model(images), model.forward_head(model.forward_features(images), pre_logits=True)
    )
    model.reset_classifier(0, "")
    assert model(images).shape == (2, 2, 2, 128)
    model.reset_classifier(5, "avg")
    assert model(images).shape == (2, 5)
    assert create(num_classes=0, global_pool="").eval()(images).shape == (2, 2, 2, 128)


def test_layer_decay_orders_every_parameter_by_depth() -> None:
    model = create()
    groups = param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.5)
    names = {id(p): name for name, p in model.named_parameters()}
    scale = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    decay = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert scale.keys() == dict(model.named_parameters()).keys()
    ordered = [
        "ape",
        *(
            f"stages.{i}.blocks.{j}.cpsa.norm1.weight"
            for i, j in [(0, 0), (1, 0), (2, 0), (2, 1), (3, 0)]
        ),
    ]
    assert [scale[name] for name in ordered] == sorted({scale[name] for name in ordered})
    assert scale["ape"] == scale["patch_embed.proj.weight"] == min(scale.values())
    assert scale["head.fc.weight"] == max(scale.values()) == 1
    assert {name for name in decay if decay[name] == 0} == {
        name
        for name, p in model.named_parameters()
        if p.ndim == 1 or name in model.no_weight_decay()
    }


def test_checkpointing_is_opt_in_with_equal_gradients(images: Tensor) -> None:
    gradients, saved = [], []
    for is_on in (False, True):
        model = create(drop_path_rate=0.3).train()
        model.set_grad_checkpointing(is_on)
        torch.manual_seed(2)
        bytes_saved = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal bytes_saved
            bytes_saved += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(images).square().sum()
        saved.append(bytes_saved)
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for off, on in zip(*gradients, strict=True):
        torch.testing.assert_close(off, on, rtol=0, atol=1e-6)
    assert saved[1] < saved[0] / 4


@pytest.mark.parametrize("layout", ["ours", "reference"])
def test_pretrained_weights_load_from_a_file_of_any_layout(tmp_path: Path, layout: str) -> None:
    vector = load_vector("cat_tiny_224")
    reference = vector.state_dict()
    contents = {
        "ours": {"state_dict": to_ours(reference, map_hw=(56, 56))},
        "reference": {"model": reference},
    }
    torch.save(contents[layout], tmp_path / "cat.pth")
    model = timm.create_model(
        "cat_tiny", pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "cat.pth")}
    )
    with torch.no_grad():
        logits = model.eval()(vector.image())
    torch.testing.assert_close(
        logits, torch.from_numpy(vector.arrays["logits"]).float(), rtol=0, atol=4e-6
    )


def test_pretrained_weights_fit_other_classes_channels_and_sizes(tmp_path: Path) -> None:
    torch.save({"model": load_vector("cat_tiny_224").state_dict()}, tmp_path / "cat.pth")
    model = timm.create_model(
        "cat_tiny",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "cat.pth")},
        num_classes=5,
        in_chans=1,
        img_size=(160, 192),
    )
    assert model.ape.shape == (1, 40, 48, 64)
    assert model(torch.zeros(1, 1, 160, 192)).shape == (1, 5)


def test_new_input_size_only_resizes_the_embedding(images: Tensor) -> None:
    model = create(img_size=96).eval()
    before = model(images)
    model.set_input_size((64, 64))
    assert model.ape.shape == (1, 16, 16, 16)
    assert model.config.img_size == (64, 64)
    torch.testing.assert_close(model(images), before, rtol=0, atol=1e-6)


def test_nan_stays_within_its_image(images: Tensor) -> None:
    model = create().eval()
    spoiled = images.clone()
    spoiled[0, 0, 0, 0] = torch.nan
    logits = model(spoiled)
    assert logits[0].isnan().all()
    torch.testing.assert_close(logits[1], model(images)[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "model", [Cat(CatConfig(**SMALL), num_classes=2), CatBackbone(CatConfig(**SMALL))]
)
def test_no_weight_decay_names_only_position_parameters(model: Cat | CatBackbone) -> None:
    names = model.no_weight_decay()
    assert "ape" in names
    assert len(names) == 1 + 5 * 2
    assert all(
        name == "ape" or name.endswith("ipsa.attn.relative_position_bias_table") for name in names
    )
