"""AdamW in two parameter groups, with and without weight decay, by the name `TwoGroups` in mmengine's configs.

mmengine's own constructor makes a group of each tensor, and so a loop over hundreds of small updates of each step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pipelines.openmmlab.library import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS


class TwoGroups:
    """Called with the model, makes the optim wrapper of its config around one fused AdamW."""

    def __init__(self, optim_wrapper_cfg: Mapping[str, Any], paramwise_cfg: Mapping[str, Any]) -> None:
        self._wrapper = dict(optim_wrapper_cfg)
        self._without_decay = tuple(paramwise_cfg["without_decay"])

    def __call__(self, model: nn.Module) -> Any:
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        spared = {name for name, _ in named if any(part in name for part in self._without_decay)}
        groups: list[dict[str, Any]] = [
            {"params": [parameter for name, parameter in named if name not in spared]},
            {"params": [parameter for name, parameter in named if name in spared], "weight_decay": 0.0},
        ]
        wrapper = {**self._wrapper, "optimizer": torch.optim.AdamW(groups, fused=True, **self._wrapper["optimizer"])}
        return OPTIM_WRAPPERS.build(wrapper)


OPTIM_WRAPPER_CONSTRUCTORS.register_module(name="TwoGroups", module=TwoGroups)
