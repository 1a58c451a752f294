"""The loss of a training batch: soft targets for mixed images, or smoothed labels for plain
images."""

from __future__ import annotations

from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from pipelines.pretrain.params import PretrainParams


class Criterion:
    """timm's mixup and losses, as a job sets them. Draws from NumPy's generator again for each
    batch."""

    def __init__(self, params: PretrainParams, *, num_classes: int) -> None:
        self._mixup = _mixup(params, num_classes) if params.is_mixing else None
        self._mixed_loss = SoftTargetCrossEntropy()
        self._plain_loss = LabelSmoothingCrossEntropy(params.label_smoothing)

    def __call__(self, model: nn.Module, x_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """The mean loss of the batch, in fp32; mixing overwrites `x_BCHW`."""
        if self._mixup is None:
            return self._loss(self._plain_loss, model(x_BCHW), labels_B)
        x_BCHW, targets_BK = self._mixup(x_BCHW, labels_B)
        return self._loss(self._mixed_loss, model(x_BCHW), targets_BK)

    @staticmethod
    def _loss(loss: nn.Module, logits_BK: Tensor, targets: Tensor) -> Tensor:
        value: Tensor = loss(logits_BK.float(), targets)
        return value


def _mixup(params: PretrainParams, num_classes: int) -> Mixup:
    return Mixup(
        mixup_alpha=params.mixup,
        cutmix_alpha=params.cutmix,
        prob=params.mixup_prob,
        switch_prob=params.mixup_switch_prob,
        mode=params.mixup_mode,
        label_smoothing=params.label_smoothing,
        num_classes=num_classes,
    )
