"""A training step as in a pretraining stage, on random images that are already on the device.

Letters: B images, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from benchmarks.training.windows import Measured
from cat_model import CONFIGS, Cat
from cat_model.complexity import complexity
from cat_model.tracing import COMPILER_OPTIONS

NUM_CLASSES = 1000
CLIP_GRAD = 5.0


@dataclass(frozen=True)
class Case:
    """What is trained: a published size, eager or compiled."""

    model: str
    batch_size: int
    img_size: int
    is_compiled: bool


def forward_flops(case: Case) -> int:
    """FLOPs of a forward pass of one image; a multiply-add is two.

    They are the products in the reference's arithmetic, even where our network takes shortcuts.
    """
    image_hw = (case.img_size, case.img_size)
    return (
        2
        * complexity(CONFIGS[case.model], image_hw=image_hw, num_classes=NUM_CLASSES).macs.products
    )


def flops_per_s(measured: Measured[Case]) -> float:
    """The FLOP/s that MFU is computed from: three forward passes an image.

    Recomputed or skipped work does not change the count.
    """
    return 3 * forward_flops(measured.case) * measured.images_per_s.median


class Step:
    """One step: forward in bf16 by autocast, soft-target loss, backward, clipping, fused AdamW."""

    def __init__(self, case: Case, device: torch.device) -> None:
        torch.manual_seed(0)
        config = replace(CONFIGS[case.model], img_size=case.img_size)
        self.device = device
        self.model = Cat(config, num_classes=NUM_CLASSES).to(device).train()
        self.optimizer = create_optimizer_v2(
            self.model, "adamw", lr=1e-4, weight_decay=0.05, fused=True
        )
        self.criterion = SoftTargetCrossEntropy()
        self.x_BCHW = torch.randn(case.batch_size, 3, case.img_size, case.img_size, device=device)
        self.targets_BK = torch.randn(case.batch_size, NUM_CLASSES, device=device).softmax(1)
        self._forward: Callable[[Tensor], Tensor] = self.model
        if case.is_compiled:
            torch.compiler.reset()  # earlier cases count towards its limit of recompilations
            self._forward = torch.compile(self.model, dynamic=False, options=COMPILER_OPTIONS)

    def __call__(self) -> None:
        with torch.autocast(self.device.type, torch.bfloat16):
            logits_BK = self._forward(self.x_BCHW)  # noqa: N806
        loss = self.criterion(logits_BK.float(), self.targets_BK)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_GRAD)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def held_bytes(self) -> int:
        states = (
            x
            for state in self.optimizer.state.values()
            for x in state.values()
            if isinstance(x, Tensor)
        )
        tensors = [*self.model.parameters(), *self.model.buffers(), *states]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
