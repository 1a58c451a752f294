from __future__ import annotations

import json
from typing import Any

import pytest

from cat_model import CONFIGS, CatConfig

TOY = CatConfig(img_size=56, embed_dim=32, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))


def test_one_number_for_img_size_means_a_square() -> None:
    assert TOY.img_size == (56, 56)
    assert TOY.map_hw == (14, 14)
    assert CatConfig(img_size=(57, 60)).map_hw == (15, 15)


@pytest.mark.parametrize(
    "config", [*CONFIGS.values(), TOY, CatConfig(img_size=(64, 96), qk_scale=0.5, ape=False)]
)
def test_config_survives_a_json_round_trip(config: CatConfig) -> None:
    assert CatConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"img_size": 3},
            r"img_size must be at least a patch \(4 pixels\) high and wide, got \(3, 3\)",
        ),
        (
            {"img_size": (224, 0)},
            r"img_size must be one or two whole numbers of pixels, .* got \(224, 0\)",
        ),
        (
            {"img_size": (224, 224, 3)},
            r"img_size must be a pair \(height, width\) or one number, got \(224, 224, 3\)",
        ),
        ({"img_size": "224"}, r"img_size must be .* got '224'"),
        ({"embed_dim": 0}, r"embed_dim must be a whole number from 1 to 16384, got 0"),
        ({"embed_dim": 10**12}, r"embed_dim must be a whole number from 1 to 16384"),
        ({"in_chans": True}, r"in_chans must be a whole number .* got True"),
        ({"depths": ()}, r"depths must be a list with one whole number per stage, got \(\)"),
        (
            {"depths": (1, 10**9, 1, 1)},
            r"depths must be a whole number from 1 to 1000, got 1000000000",
        ),
        ({"depths": (900, 900, 1, 1)}, r"depths must add up to at most 1000"),
        (
            {"num_heads": (3, 6)},
            r"num_heads must have one entry per stage, like depths: .*\(3, 6\)",
        ),
        (
            {"num_heads": (3, 6, 12, 7)},
            r"num_heads must divide .* stage 3 has 768 channels \(embed_dim 96 x 8\) and 7",
        ),
        ({"mlp_ratio": float("nan")}, r"mlp_ratio must be a number above 0, got nan"),
        ({"qk_scale": 0.0}, r"qk_scale must be a number above 0, got 0.0"),
        (
            {"drop_path_rate": 1.0},
            r"drop_path_rate must be a number from 0 to below 1, got 1.0",
        ),
        ({"ape": 1}, r"ape must be true or false, got 1"),
        ({"patch_embed": "conv2"}, r"patch_embed must be 'conv' or 'slice', got 'conv2'"),
        (
            {"patch_embed": "slice", "patch_size": 2},
            r"patch_size must be 4 with patch_embed 'slice', got 2",
        ),
    ],
)
def test_invalid_field_is_named_with_constraint_and_value(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CatConfig(**fields)


def test_unknown_field_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"unknown fields depth, window: a CatConfig has .*depths.*"
    ):
        CatConfig.from_dict({"depth": 3, "window": 7})
