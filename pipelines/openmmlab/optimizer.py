"""AdamW in few parameter groups, by the name `FewGroups` in mmengine's configs: with and without
weight decay, and these for each depth of the backbone where the learning rate decays over its
layers.

mmengine's own constructor makes a group of each tensor, and so a loop over hundreds of small
updates of each step.
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
    """Called with the model, makes the optim wrapper of its config around one fused AdamW."""

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
        """Over what learns; groups stand in the order of their learning rates, those that decay
        first of each two."""
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
    """The factor on the learning rate of each parameter: `layer_decay` to the power of the layers
    that follow its own.

    The head stands after the last group of blocks, so that group has `layer_decay` itself. The
    norms of maps are new, as the head is, and learn like it.
    """
    depths: dict[str, int] = group_parameters(backbone, backbone.group_matcher(), reverse=True)
    head = 1 + max(depths.values())
    return {
        name: 1.0 if name.startswith("norm") else layer_decay ** (head - depth)
        for name, depth in depths.items()
    }


OPTIM_WRAPPER_CONSTRUCTORS.register_module(name="FewGroups", module=FewGroups)
