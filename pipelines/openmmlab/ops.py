"""Provides `mmcv._ext` for an mmcv installed without compiled ops. A compiled `_ext` takes
precedence."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from pipelines.openmmlab.kernels import BACKED, SOURCES, MissingOpError

EXTENSION = "mmcv._ext"


class OpsFinder:
    """Finds `mmcv._ext` if no earlier finder does. mmcv looks up all its ops at import, so the
    module has an attribute for every name."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, cls, origin=__name__) if fullname == EXTENSION else None  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType | None:
        return None

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        module.__dict__.update(BACKED)
        module.__dict__["__getattr__"] = _missing_op


def install_ops() -> None:
    """Makes `mmcv.ops` importable in this process. Call it before the first import of mmcv;
    repeated calls are harmless."""
    if OpsFinder not in sys.meta_path:
        # Last, so that the file finders see a compiled extension first.
        sys.meta_path.append(OpsFinder)


def active_ops() -> dict[str, str]:
    """The implementation in this process of each op that our methods call: `compiled` (mmcv's own),
    or one of SOURCES."""
    spec = importlib.import_module(EXTENSION).__spec__
    is_ours = spec is not None and spec.loader is OpsFinder  # type: ignore[comparison-overlap]
    return {op: source if is_ours else "compiled" for op, source in SOURCES.items()}


def find_ops() -> dict[str, str]:
    """Make `mmcv.ops` importable, and return the implementation of each op as `active_ops` does."""
    install_ops()
    return active_ops()


def _missing_op(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(name)

    def raise_missing(*args: object, **kwargs: object) -> None:
        raise MissingOpError(name)

    return raise_missing
