"""Builds the network of any model config, to find errors in the config or to count its parameters.
The network is not trained."""

from __future__ import annotations

import warnings

import torch
from torch import nn

import pipelines.openmmlab.backbone  # noqa: F401 - registers CAT
from pipelines.openmmlab.library import MODELS, DefaultScope, Scope, load_library
from pipelines.openmmlab.library import Config as MmengineConfig
from pipelines.openmmlab.recipe import Config


def build_network(scope: Scope, model: Config) -> nn.Module:
    """Builds the network without its backbone's weights, on torch's meta device if the model allows
    it, else on the CPU.

    Passes on any exception that the model's parts raise.
    """
    load_library(scope)
    model = {
        **model,
        "backbone": {
            name: value for name, value in model["backbone"].items() if name != "checkpoint"
        },
    }
    try:
        return _build(scope, model, "meta")
    except Exception:  # noqa: BLE001  the model may read values while it is built; a real error fails again on the CPU
        return _build(scope, model, "cpu")


def _build(scope: Scope, model: Config, device: str) -> nn.Module:
    with (
        DefaultScope.overwrite_default_scope(scope),
        torch.device(device),
        warnings.catch_warnings(action="ignore"),
    ):
        network: nn.Module = MODELS.build(MmengineConfig(model))
    return network
