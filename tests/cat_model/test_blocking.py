"""Blocking for the cache changes what is computed together, but not the results."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cat_model import Cat, CatConfig, blocking

CONFIG = CatConfig(img_size=56, embed_dim=32, depths=(1, 1), num_heads=(1, 2), drop_path_rate=0.0)
WIDE = torch.zeros(8, 64, 7, 7, 64)
"""The first stage of CAT-T at batch 8 and 224 x 224: a hidden map of 24.5 MiB."""


def at_once(x: Tensor, blocks: nn.Module | None = None) -> int | None:
    return blocking.images_at_once(x, mlp_ratio=4.0, blocks=blocks or nn.Identity())


def test_only_batches_larger_than_the_cache_are_split() -> None:
    assert at_once(WIDE) == 2
    assert at_once(WIDE[:5]) is None
    assert at_once(torch.zeros(2, 256, 7, 7, 128)) == 1


def test_other_precisions_and_tracers_see_the_whole_batch() -> None:
    assert at_once(WIDE.bfloat16()) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert at_once(WIDE) is None
    assert at_once(WIDE.to("meta")) is None
    assert at_once(nn.Parameter(WIDE)) is None  # any subclass of Tensor; tracers use their own


def test_hook_sees_the_whole_batch() -> None:
    blocks = nn.Sequential(nn.Identity())
    handle = blocks[0].register_forward_hook(lambda *_: None)
    assert at_once(WIDE, blocks) is None
    handle.remove()
    assert at_once(WIDE, blocks) == 2


def run(images: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    torch.manual_seed(0)
    model = Cat(CONFIG, num_classes=3)
    logits = model(images)
    logits.square().sum().backward()
    return logits.detach(), [p.grad for p in model.parameters()]


@pytest.mark.parametrize("size", [(56, 56), (50, 70)])
def test_parts_match_logits_and_gradients_of_the_whole(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.randn(5, 3, *size, generator=torch.Generator().manual_seed(0))
    whole = run(images)
    monkeypatch.setattr(blocking, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(blocking, "_PART_BYTES", 2**17)
    assert at_once(torch.zeros(5, 4, 7, 7, 32)) == 1
    torch.testing.assert_close(run(images), whole, rtol=1e-4, atol=1e-6)
