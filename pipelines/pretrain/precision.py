"""The device and the arithmetic of the forward pass."""

from __future__ import annotations

import torch
from torch.amp.grad_scaler import GradScaler

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """A device and the dtype of its matrix products; weights and their updates are always fp32."""

    def __init__(self, precision: str, device: torch.device) -> None:
        self.device = device
        self._dtype = DTYPES[precision]

    def autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32
        )

    def scaler(self) -> GradScaler:
        """A scaler that scales the loss in fp16, where small gradients would underflow; disabled
        otherwise."""
        return GradScaler(self.device.type, enabled=self._dtype == torch.float16)
