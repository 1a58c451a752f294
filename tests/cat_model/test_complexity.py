"""The closed form counts the reference's arithmetic and gives the published figures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cat_model import CONFIGS, Cat, CatConfig
from cat_model.complexity import PUBLISHED, Macs, complexity, cpsa_macs
from orchestrator.report.published import published_rows
from tests.cat_model.plain import Counts, counting, run_plainly

CLASSES = 1000
AT_224 = {
    # parameters; G multiply-adds from the reference's flops(), FlopCounterMode / 2 and hooks on the
    # reference's modules
    "cat_tiny": (16_870_996, 2.774, 2.770, 2.650),
    "cat_small": (37_294_258, 6.068, 6.063, 5.883),
    "cat_base": (51_531_922, 8.935, 8.928, 8.703),
}
CONFIG = st.builds(
    CatConfig,
    img_size=st.sampled_from([16, (24, 40)]),
    in_chans=st.integers(1, 4),
    patch_size=st.integers(1, 5),
    window_size=st.integers(2, 5),
    embed_dim=st.sampled_from([4, 8]),
    depths=st.lists(st.integers(1, 2), min_size=3, max_size=3),
    num_heads=st.sampled_from([(1, 2, 4), (2, 2, 2)]),
    mlp_ratio=st.sampled_from([2.0, 3.3]),
    qkv_bias=st.booleans(),
    ape=st.booleans(),
    patch_norm=st.booleans(),
)


@pytest.mark.parametrize("name", CONFIGS)
def test_counts_equal_the_measured_figures_exactly(name: str) -> None:
    counted = complexity(CONFIGS[name], image_hw=(224, 224), num_classes=CLASSES)
    giga = {convention: round(count / 1e9, 3) for convention, count in counted.conventions.items()}
    params, *expected = AT_224[name]
    assert counted.params == params
    assert [giga["reference"], giga["products"], giga["modules"]] == expected


@pytest.mark.parametrize("name", CONFIGS)
def test_docstring_names_the_published_convention(name: str) -> None:
    counted = complexity(CONFIGS[name], image_hw=(224, 224), num_classes=CLASSES)
    agreeing = {
        key
        for key, count in counted.conventions.items()
        if round(count / 1e9, 1) == PUBLISHED[name].flops_g
    }
    assert agreeing == ({"modules"} if name == "cat_small" else {"reference", "products"})
    assert round(counted.params / 1e6) == PUBLISHED[name].params_m


def test_published_figures_match_the_report() -> None:
    rows = published_rows()
    for name, published in PUBLISHED.items():
        metrics = rows[f"imagenet1k/{name}"].metrics
        assert published.params_m == metrics["params_m"]
        assert published.flops_g == metrics["flops_g"]


@pytest.mark.parametrize(
    ("name", "said", "read"), [("cat_tiny", 100_352, 25_088), ("cat_small", 150_528, 37_632)]
)
def test_last_norm_is_counted_by_the_values_it_reads(name: str, said: int, read: int) -> None:
    counted = complexity(CONFIGS[name], image_hw=(224, 224), num_classes=CLASSES)
    assert counted.parts[-1].macs.norms == read
    assert counted.norm_excess == said - read
    macs = counted.macs
    assert counted.conventions["reference"] - macs.products - macs.norms == said - read


@settings(max_examples=40)
@given(config=CONFIG, image_hw=st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_counts_match_plain_arithmetic_for_any_network_and_size(
    config: CatConfig, image_hw: tuple[int, int]
) -> None:
    with counting() as counts:
        run_plainly(config, image_hw, num_classes=CLASSES)
    macs = complexity(config, image_hw=image_hw, num_classes=CLASSES).macs
    assert Counts(macs.layers, macs.norms, macs.products) == counts


@settings(max_examples=40)
@given(config=CONFIG, num_classes=st.sampled_from([0, 1, 10]))
def test_parameter_counts_match_each_part_of_the_network(
    config: CatConfig, num_classes: int
) -> None:
    with torch.device("meta"):
        model = Cat(config, num_classes=num_classes)
    counted = complexity(config, image_hw=(40, 30), num_classes=num_classes)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert counted.params == sum(sizes.values())
    for part in counted.parts[1:-1]:
        assert part.params == sum(
            size for name, size in sizes.items() if name.startswith(f"{part.name}.")
        )


def test_slicing_the_image_first_costs_the_same() -> None:
    config = replace(CONFIGS["cat_tiny"], patch_embed="slice")
    with torch.device("meta"):
        params = sum(
            parameter.numel() for parameter in Cat(config, num_classes=CLASSES).parameters()
        )
    sliced = complexity(config, image_hw=(224, 224), num_classes=CLASSES)
    assert sliced == complexity(CONFIGS["cat_tiny"], image_hw=(224, 224), num_classes=CLASSES)
    assert sliced.params == params


def products_of_ours(name: str, image_hw: tuple[int, int]) -> int:
    with counting() as counts:
        Cat(CONFIGS[name], num_classes=CLASSES).eval()(torch.empty(1, 3, *image_hw))
    return counts.products


@pytest.mark.parametrize("name", CONFIGS)
def test_counts_match_the_multiplications_of_our_network(name: str) -> None:
    """At 448 x 448 no window is padded and no map has a single window; folding the matrices takes
    two products of them per block."""
    expected = complexity(CONFIGS[name], image_hw=(448, 448), num_classes=CLASSES)
    stages = [(part, part.groups) for part in expected.parts if part.groups]
    saved = sum(
        groups.num_groups
        * (
            cpsa_macs(channels=part.channels, window=7, num_windows=groups.num_windows).layers // 2
            - 2 * 49**3
        )
        for part, groups in stages
    )
    assert products_of_ours(name, (448, 448)) == expected.macs.products - saved


@pytest.mark.parametrize(
    ("image_hw", "saved"), [((224, 224), 0.012), ((448, 448), 0.011), ((200, 300), 0.062)]
)
def test_shortcuts_save_what_the_docstring_says(image_hw: tuple[int, int], saved: float) -> None:
    expected = complexity(
        CONFIGS["cat_small"], image_hw=image_hw, num_classes=CLASSES
    ).macs.products
    assert 1 - products_of_ours("cat_small", image_hw) / expected == pytest.approx(saved, abs=0.001)


def test_parts_describe_the_maps_of_the_network() -> None:
    counted = complexity(CONFIGS["cat_small"], image_hw=(200, 300), num_classes=7)
    assert [(part.name, part.map_hw, part.channels) for part in counted.parts] == [
        ("patch_embed", (50, 75), 96),
        ("stages.0", (50, 75), 96),
        ("stages.1", (25, 38), 192),
        ("stages.2", (13, 19), 384),
        ("stages.3", (7, 10), 768),
        ("head", None, 7),
    ]
    windows = [part.groups.num_windows for part in counted.parts if part.groups]
    assert windows == [8 * 11, 4 * 6, 2 * 3, 1 * 2]


def test_model_without_a_head_returns_features() -> None:
    head = complexity(CONFIGS["cat_small"], image_hw=(224, 224), num_classes=0).parts[-1]
    assert head.channels == 768
    assert head.params == 2 * 768
    assert head.macs == Macs(norms=768 * 7 * 7)


@pytest.mark.parametrize(
    ("image_hw", "num_classes", "message"),
    [
        (
            (0, 224),
            CLASSES,
            r"image_hw must be a height and a width of at least one pixel, got \(0, 224\)",
        ),
        ((224, -1), CLASSES, r"image_hw must be .* got \(224, -1\)"),
        ((224, 224), -1, r"num_classes must be 0 \(no classifier\) or more, got -1"),
    ],
)
def test_impossible_image_sizes_are_refused(
    image_hw: tuple[int, int], num_classes: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        complexity(CONFIGS["cat_tiny"], image_hw=image_hw, num_classes=num_classes)
