"""Checkpoints as other programs write them, with real pickles of their classes: the official files,
timm's and mmengine's.

yacs is not installed. While a file is written, a module of that name replaces it; its class pickles
like yacs's class.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.openmmlab.library import quiet_import

with quiet_import():
    from mmengine.logging import MessageHub


class CfgNode(dict[str, Any]):
    """yacs's node: a dict of settings whose flags are attributes of the instance and are pickled as
    its state."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(
            {
                key: CfgNode(value) if isinstance(value, Mapping) else value
                for key, value in settings.items()
            }
        )
        self.__dict__ |= {
            "__immutable__": True,
            "__deprecated_keys__": set(),
            "__new_allowed__": False,
        }
        self.__dict__["__renamed_keys__"] = {"OLD": "NEW"}


CfgNode.__module__ = "yacs.config"


@contextmanager
def yacs_installed() -> Iterator[None]:
    package, module = ModuleType("yacs"), ModuleType("yacs.config")
    module.CfgNode = CfgNode  # type: ignore[attr-defined]
    sys.modules |= {"yacs": package, "yacs.config": module}
    try:
        yield
    finally:
        del sys.modules["yacs"], sys.modules["yacs.config"]


def save_official(path: Path, state: Mapping[str, Tensor], *, is_legacy: bool = False) -> None:
    """The checkpoint that the official repository's training writes."""
    config = CfgNode(
        {"MODEL": {"NAME": "cat_tiny", "CAT": {"DEPTHS": [1, 1, 3, 1], "APE": True}}, "AMP": "O1"}
    )
    content = {
        "model": dict(state),
        "max_accuracy": np.float64(80.3),
        "epoch": 299,
        "config": config,
    }
    with yacs_installed():
        torch.save(content, path, _use_new_zipfile_serialization=not is_legacy)


def save_timm(path: Path, state: Mapping[str, Tensor]) -> None:
    """The checkpoint that timm's train.py writes, with averaged weights next to the plain ones."""
    averaged = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    args = Namespace(model="cat_tiny", lr=np.float32(1e-3), mean=np.ones(3), opt_betas=(0.9, 0.999))
    torch.save(
        {"arch": "cat_tiny", "state_dict": dict(state), "state_dict_ema": averaged, "args": args},
        path,
    )


def save_mmengine(path: Path, state: Mapping[str, Tensor]) -> None:
    """The checkpoint that mmengine's CheckpointHook writes, including its log of scalars."""
    hub = MessageHub("checkpoints under test")
    hub.update_scalar("train/loss", 1.5)
    torch.save(
        {"meta": {"epoch": 1}, "state_dict": dict(state), "message_hub": hub.state_dict()}, path
    )
