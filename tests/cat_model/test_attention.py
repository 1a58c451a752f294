"""All forms of attention in windows compute one function, and a GPU's network equals a CPU's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cat_model import Cat, CatConfig, attention

Form = Callable[[Tensor, Tensor, Tensor, Tensor, float, float], Tensor]
CONFIG = CatConfig(img_size=112, embed_dim=32, depths=(1, 1), num_heads=(2, 4))


def head_by_head(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, drop: float
) -> Tensor:
    assert drop == 0.0
    return attention._head_by_head(q, k, v, bias, scale)


@pytest.fixture
def arguments() -> tuple[Tensor, Tensor, Tensor, Tensor, float, float]:
    """Five windows of 6 queries and 7 keys, 3 heads of 8 channels."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(5, tokens, 3, 8, generator=generator, dtype=torch.float64)
        for tokens in (6, 7, 7)
    )
    return q, k, v, torch.randn(3, 6, 7, generator=generator, dtype=torch.float64), 0.3, 0.0


@pytest.mark.parametrize("form", [attention._fused, attention._batched, head_by_head])
def test_every_form_equals_softmax_of_scaled_products_plus_bias(
    form: Form, arguments: tuple[Tensor, Tensor, Tensor, Tensor, float, float]
) -> None:
    q, k, v, bias, scale, _ = arguments
    logits = torch.einsum("wnhd,wkhd->whnk", q, k) * scale + bias
    expected = torch.einsum("whnk,wkhd->wnhd", logits.softmax(dim=-1), v).flatten(2)
    torch.testing.assert_close(form(*arguments), expected)


@pytest.mark.parametrize("form", [attention._fused, attention._batched])
def test_dropout_of_attention_weights_keeps_the_mean(
    form: Form, arguments: tuple[Tensor, Tensor, Tensor, Tensor, float, float]
) -> None:
    torch.manual_seed(0)
    q, k, v = (x.repeat(4000, 1, 1, 1) for x in arguments[:3])
    dropped = form(q, k, v, arguments[3], arguments[4], 0.5).view(4000, 5, 6, 24)
    torch.testing.assert_close(dropped.mean(dim=0), form(*arguments), rtol=0, atol=0.1)
    assert dropped.std(dim=0).min() > 0


def network_on(device: str, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits and gradients of all parameters, copied to the CPU."""
    torch.manual_seed(0)
    model = Cat(CONFIG, num_classes=5).to(device)
    logits = model(images.to(device))
    logits.square().sum().backward()
    return logits.detach().cpu(), [p.grad.cpu() for p in model.parameters() if p.grad is not None]


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU; its form runs on the CPU above"
)
@pytest.mark.parametrize("size", [(112, 112), (100, 90)])
def test_gpu_matches_cpu_logits_and_gradients(size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        network_on("cuda", images), network_on("cpu", images), rtol=1e-3, atol=1e-4
    )
