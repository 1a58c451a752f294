"""Where and in which arithmetic the forward pass runs."""

from __future__ import annotations

import torch
from torch.amp.grad_scaler import GradScaler

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """A device and the type of its matrix products; weights and their updates are in fp32
    throughout."""

    def __init__(self, precision: str, device: torch.device) -> None:
        self.device = device
        self._dtype = DTYPES[precision]

    def autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32
        )

    def scaler(self) -> GradScaler:
        """Scales the loss in fp16, whose smallest numbers gradients fall below; passes through
        otherwise."""
        return GradScaler(self.device.type, enabled=self._dtype == torch.float16)
