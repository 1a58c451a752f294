"""The import point for OpenMMLab: installs the ops, then imports mmengine without its output. Other
modules import these names from here."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator
from typing import Literal

from pipelines.openmmlab.ops import install_ops

Scope = Literal["mmdet", "mmseg"]


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Suppresses standard output: pycocotools and others print, but stdout belongs to the
    command."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Suppresses what these libraries print and warn about at import, because a user cannot act on
    it."""
    with quiet_stdout(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


install_ops()
with quiet_import():
    from mmcv.cnn.utils.flops_counter import get_modules_mapping
    from mmengine.config import Config
    from mmengine.dist import all_gather_object, get_dist_info
    from mmengine.evaluator import BaseMetric
    from mmengine.hooks import Hook
    from mmengine.logging import MMLogger
    from mmengine.model import (
        BaseModel,
        MMDistributedDataParallel,
        is_model_wrapper,
        revert_sync_batchnorm,
    )
    from mmengine.registry import (
        DATA_SAMPLERS,
        DATASETS,
        FUNCTIONS,
        METRICS,
        MODELS,
        OPTIM_WRAPPER_CONSTRUCTORS,
        OPTIM_WRAPPERS,
        TRANSFORMS,
        DefaultScope,
    )
    from mmengine.runner import BaseLoop, Runner

__all__ = [
    "DATASETS",
    "DATA_SAMPLERS",
    "FUNCTIONS",
    "METRICS",
    "MODELS",
    "OPTIM_WRAPPERS",
    "OPTIM_WRAPPER_CONSTRUCTORS",
    "TRANSFORMS",
    "BaseLoop",
    "BaseMetric",
    "BaseModel",
    "Config",
    "DefaultScope",
    "Hook",
    "MMDistributedDataParallel",
    "MMLogger",
    "Runner",
    "Scope",
    "all_gather_object",
    "get_dist_info",
    "get_modules_mapping",
    "is_model_wrapper",
    "load_library",
    "quiet_import",
    "quiet_stdout",
    "revert_sync_batchnorm",
]


def load_library(scope: Scope) -> None:
    """Imports all modules of a library, which fills its registries."""
    with quiet_import():
        importlib.import_module(f"{scope}.utils").register_all_modules(init_default_scope=False)
