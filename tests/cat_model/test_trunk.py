"""Options that change memory and speed of the network, but not its function."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cat_model import Cat, CatConfig
from cat_model.stage import AttentionBlock

CONFIG = CatConfig(img_size=56, embed_dim=16, depths=(1, 2), num_heads=(1, 2), drop_path_rate=0.0)
NUM_BLOCKS = 9


def _model() -> Cat:
    torch.manual_seed(0)
    return Cat(CONFIG, num_classes=3)


def _count_forwards(model: Cat) -> list[AttentionBlock]:
    """Records every run of a block's forward, including those that backward starts."""
    runs: list[AttentionBlock] = []

    def note(module: Any, inputs: object) -> None:
        runs.append(module)

    for module in model.modules():
        if isinstance(module, AttentionBlock):
            module.register_forward_pre_hook(note)  # a second run ends before the block does
    return runs


@pytest.mark.parametrize(("calls", "num_runs"), [([], 1), ([True], 2), ([True, False], 1)])
def test_backward_recomputes_blocks_only_with_checkpointing(
    calls: list[bool], num_runs: int
) -> None:
    """Without the option nothing is recomputed; the reference recomputes every block in both
    cases."""
    model = _model().train()
    for is_on in calls:
        model.set_grad_checkpointing(is_on)
    runs = _count_forwards(model)
    loss = model(torch.randn(2, 3, 56, 56)).square().sum()
    assert len(runs) == NUM_BLOCKS
    loss.backward()
    assert len(runs) == num_runs * NUM_BLOCKS


def test_checkpointing_does_not_change_gradients() -> None:
    grads = []
    for is_on in (False, True):
        model = _model().train()
        model.set_grad_checkpointing(is_on)
        torch.manual_seed(1)
        model(torch.randn(2, 3, 56, 56)).square().sum().backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, grad in grads[0].items():
        other = grads[1][name]
        assert grad is not None
        assert other is not None
        assert torch.equal(grad, other), name


def test_channels_last_changes_results_only_by_rounding() -> None:
    plain, turned = _model(), _model()
    turned.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    x_BIHW = torch.randn(2, 3, 56, 56)  # noqa: N806
    expected, logits_BK = plain(x_BIHW), turned(x_BIHW.to(memory_format=torch.channels_last))  # noqa: N806
    assert torch.allclose(logits_BK, expected, atol=4e-6)
    for outputs in (expected, logits_BK):
        outputs.square().sum().backward()
    for (name, one), other in zip(plain.named_parameters(), turned.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(other.grad, one.grad, atol=1e-5, rtol=1e-3), name
