from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import DropPath
from torch import Tensor
from torch.nn import functional

from cat_model import Cat, CatBackbone, CatConfig
from cat_model.attention import Cpsa, Ipsa
from cat_model.windows import merge, split

TOY = CatConfig(img_size=56, embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
SIDES = st.integers(min_value=32, max_value=160)


@pytest.fixture(scope="module")
def backbone() -> CatBackbone:
    torch.manual_seed(0)
    return CatBackbone(TOY).eval()


def make_ipsa(*, qkv_bias: bool = True, attn_drop: float = 0.0) -> Ipsa:
    torch.manual_seed(0)
    ipsa = Ipsa(
        8,
        num_heads=2,
        window=4,
        qkv_bias=qkv_bias,
        qk_scale=None,
        attn_drop=attn_drop,
        proj_drop=0.0,
    )
    for parameter in ipsa.parameters():
        torch.nn.init.normal_(parameter)
    return ipsa.double()


def make_cpsa() -> Cpsa:
    torch.manual_seed(0)
    return Cpsa(window=4, qkv_bias=True, qk_scale=None, attn_drop=0.0, proj_drop=0.0).double()


def on_padded_map(attention: Ipsa | Cpsa, x: Tensor) -> Tensor:
    """The padding rule, implemented literally: pad with zeros to a multiple of the window, attend
    in windows, crop."""
    height, width = x.shape[1:3]
    padded = functional.pad(x, (0, 0, 0, -width % 4, 0, -height % 4))
    out: Tensor = attention(split(padded, 4))
    return merge(out, height, width)


@settings(max_examples=25)
@given(height=SIDES, width=SIDES)
def test_maps_of_any_size_do_not_depend_on_the_batch(
    backbone: CatBackbone, height: int, width: int
) -> None:
    images = torch.randn(
        2, 3, height, width, generator=torch.Generator().manual_seed(height * width)
    )
    with torch.no_grad():
        maps, alone = backbone(images), backbone(images[1:])
    sizes = [(math.ceil(height / stride), math.ceil(width / stride)) for stride in (4, 8, 16, 32)]
    assert [tuple(x.shape) for x in maps] == [
        (2, 16 * 2**i, h, w) for i, (h, w) in enumerate(sizes)
    ]
    for together, single in zip(maps, alone, strict=True):
        torch.testing.assert_close(together[1:], single, rtol=0, atol=2e-5)


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 3), (4, 4), (5, 4), (7, 9), (8, 8)])
def test_ipsa_of_a_map_equals_ipsa_of_zero_padded_windows(
    size: tuple[int, int], qkv_bias: bool
) -> None:
    ipsa = make_ipsa(qkv_bias=qkv_bias)
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    torch.testing.assert_close(ipsa(x), on_padded_map(ipsa, x))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 3), (4, 4), (5, 4), (7, 9), (8, 8)])
def test_cpsa_of_a_map_equals_cpsa_of_zero_padded_windows(size: tuple[int, int]) -> None:
    cpsa = make_cpsa()
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    torch.testing.assert_close(cpsa(x), on_padded_map(cpsa, x))


def test_cpsa_of_one_window_equals_full_attention() -> None:
    cpsa = make_cpsa()
    x = torch.randn(2, 1, 4, 4, 8, dtype=torch.float64)
    torch.testing.assert_close(cpsa(x), cpsa._mix(x, drop=0.0))


def test_cpsa_dropout_applies_to_its_attention_weights() -> None:
    """The arithmetic without folding, with the same random numbers."""
    torch.manual_seed(0)
    cpsa = (
        Cpsa(window=4, qkv_bias=True, qk_scale=None, attn_drop=0.5, proj_drop=0.0).double().train()
    )
    x = torch.randn(2, 6, 4, 4, 3, dtype=torch.float64)
    tokens = x.flatten(2, 3).permute(0, 3, 1, 2).reshape(6, 6, 16)
    q, k, v = cpsa.qkv(tokens).chunk(3, dim=-1)
    torch.manual_seed(1)
    weights = functional.dropout((q @ k.transpose(1, 2) / 4).softmax(dim=-1), 0.5)
    expected = cpsa.proj(weights @ v).view(2, 3, 6, 4, 4).permute(0, 2, 3, 4, 1)
    torch.manual_seed(1)
    torch.testing.assert_close(cpsa(x), expected)
    assert not torch.allclose(cpsa.eval()(x), expected)


def test_attention_dropout_changes_training_but_not_evaluation() -> None:
    ipsa, x = make_ipsa(attn_drop=0.5), torch.randn(1, 3, 3, 8, dtype=torch.float64)
    without = make_ipsa()(x)
    assert not torch.allclose(ipsa.train()(x), without)
    torch.testing.assert_close(ipsa.eval()(x), without)


@settings(max_examples=25)
@given(height=st.integers(1, 20), width=st.integers(1, 20), window=st.integers(1, 8))
def test_merging_windows_inverts_splitting(height: int, width: int, window: int) -> None:
    x = torch.arange(2 * height * width * 3).view(2, height, width, 3)
    assert torch.equal(merge(split(x, window), height, width), x)


@pytest.mark.parametrize("size", [56, 49, 70])
def test_image_has_the_same_logits_in_any_batch(size: int) -> None:
    torch.manual_seed(0)
    model = Cat(TOY, num_classes=5).eval()
    images = torch.randn(3, 3, size, size)
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [56, 70, 112])
def test_bfloat16_autocast_trains_and_stays_near_float32(size: int) -> None:
    torch.manual_seed(0)
    model = Cat(TOY, num_classes=5)
    images = torch.randn(2, 3, size, size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images)
    logits.float().square().mean().backward()
    torch.testing.assert_close(logits.float(), model(images), rtol=0, atol=0.005)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "model", [Cat(TOY, num_classes=5), CatBackbone(TOY), CatBackbone(TOY, out_indices=(1,))]
)
def test_every_parameter_gets_a_gradient(model: Cat | CatBackbone) -> None:
    outputs = model.train()(torch.randn(2, 3, 64, 48))
    sum(
        x.square().mean() for x in (outputs if isinstance(outputs, tuple) else (outputs,))
    ).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_train_and_eval_return_the_backbone(backbone: CatBackbone) -> None:
    assert backbone.train() is backbone
    assert backbone.eval() is backbone


def test_drop_path_rises_linearly_over_all_groups() -> None:
    model = Cat(replace(TOY, depths=(1, 1, 2, 1), drop_path_rate=0.4), num_classes=2)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.1] * 3 + [0.2] * 3 + [0.3] * 3 + [0.4] * 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 4, 56, 56), r"\(images, 3 channels, height, width\), got \(1, 4, 56, 56\)"),
        (torch.zeros(3, 56, 56), r"\(images, 3 channels, height, width\), got \(3, 56, 56\)"),
        (torch.zeros(1, 3, 0, 56), r"got \(1, 3, 0, 56\)"),
        (
            torch.zeros(1, 3, 56, 56, dtype=torch.uint8),
            r"must be normalised floats, got torch.uint8",
        ),
    ],
)
def test_wrong_input_is_refused_before_any_computation(
    backbone: CatBackbone, image: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        backbone(image)


@pytest.mark.parametrize("out_indices", [(), (1, 0), (0, 4), (-1,), (2, 2)])
def test_out_indices_must_increase_within_the_stages(out_indices: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"out_indices must increase within 0\.\.3"):
        CatBackbone(TOY, out_indices=out_indices)
