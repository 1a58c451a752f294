"""Builds the network of any model config, to find what is wrong with it or to count it; it is not
trained."""

from __future__ import annotations

import warnings

import torch
from torch import nn

import pipelines.openmmlab.backbone  # noqa: F401 - registers CAT
from pipelines.openmmlab.library import MODELS, DefaultScope, Scope, load_library
from pipelines.openmmlab.library import Config as MmengineConfig
from pipelines.openmmlab.recipe import Config


def build_network(scope: Scope, model: Config) -> nn.Module:
    """Without values (on torch's meta device) where the model can be, and without the weights of
    its backbone.

    Raises what its parts raise.
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
    except Exception:  # noqa: BLE001  a model that reads values while it is built; what is wrong fails again
        return _build(scope, model, "cpu")


def _build(scope: Scope, model: Config, device: str) -> nn.Module:
    with (
        DefaultScope.overwrite_default_scope(scope),
        torch.device(device),
        warnings.catch_warnings(action="ignore"),
    ):
        network: nn.Module = MODELS.build(MmengineConfig(model))
    return network
