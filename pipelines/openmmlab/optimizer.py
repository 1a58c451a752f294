"""AdamW in few parameter groups; mmengine's configs refer to it as `FewGroups`.

One group has weight decay and one has none. With layer-wise learning rate decay there are two such
groups for each depth of the backbone. mmengine's own constructor makes one group per tensor, so
each step loops over hundreds of small updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.models import group_parameters
from torch import Tensor, nn

from cat_model import CatBackbone
from pipelines.openmmlab.library import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, is_model_wrapper


class FewGroups:
    """Builds, when called with the model, the optim wrapper of its config around one fused
    AdamW."""

    def __init__(
        self, optim_wrapper_cfg: Mapping[str, Any], paramwise_cfg: Mapping[str, Any]
    ) -> None:
        self._wrapper = dict(optim_wrapper_cfg)
        self._without_decay = tuple(paramwise_cfg["without_decay"])
        self._layer_decay = float(paramwise_cfg.get("layer_decay", 1.0))

    def __call__(self, model: nn.Module) -> Any:
        wrapper = {**self._wrapper, "optimizer": self._optimizer(model)}
        return OPTIM_WRAPPERS.build(wrapper)

    def _optimizer(self, model: nn.Module) -> torch.optim.AdamW:
        """AdamW over the trainable parameters. Groups are sorted by falling learning rate; at each
        rate the group with weight decay is first."""
        network: Any = model.module if is_model_wrapper(model) else model
        scales = {} if self._layer_decay == 1 else lr_scales(network.backbone, self._layer_decay)
        members: dict[tuple[float, bool], list[Tensor]] = {}
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                is_spared = any(part in name for part in self._without_decay)
                scale = (
                    scales.get(name.removeprefix("backbone."), 1.0)
                    if name.startswith("backbone.")
                    else 1.0
                )
                members.setdefault((-scale, is_spared), []).append(parameter)
        own = self._wrapper["optimizer"]
        groups: list[dict[str, Any]] = [
            {
                "params": members[scale, is_spared],
                "lr": -scale * own["lr"],
                "weight_decay": 0.0 if is_spared else own["weight_decay"],
            }
            for scale, is_spared in sorted(members)
        ]
        return torch.optim.AdamW(groups, fused=True, **own)


def lr_scales(backbone: CatBackbone, layer_decay: float) -> dict[str, float]:
    """The learning rate factor of each parameter: `layer_decay` to the power of the number of
    layers after it.

    The head follows the last group of blocks, so that group has the factor `layer_decay`. The norms
    of the maps are new, like the head, and learn at the head's rate.
    """
    depths: dict[str, int] = group_parameters(backbone, backbone.group_matcher(), reverse=True)
    head = 1 + max(depths.values())
    return {
        name: 1.0 if name.startswith("norm") else layer_decay ** (head - depth)
        for name, depth in depths.items()
    }


OPTIM_WRAPPER_CONSTRUCTORS.register_module(name="FewGroups", module=FewGroups)
