"""Records when each iteration of mmengine ended, and its loss, in our processes and a rival's.

A process with the environment from `stamping` wraps `OptimWrapper.update_params` as soon as it
imports mmengine. That method ends the update of each iteration. Ray passes the environment to its
workers.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import time
from collections.abc import Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

_WRAPPED = "mmengine.optim.optimizer.optimizer_wrapper"
_FILE = "BENCHMARK_STAMPS"


class Stamp(NamedTuple):
    """The end of an iteration's update: `time_s`, in seconds since 1970, and the loss."""

    time_s: float
    loss: float


def stamping(folder: Path, root: Path) -> Mapping[str, str]:
    """The environment of a command whose trainings write their stamps to `folder`.

    The command imports its modules from `root`. Python imports `sitecustomize`, which is written to
    `folder`, at the start of every process.
    """
    (folder / "sitecustomize.py").write_text("from benchmarks.stamps import install\n\ninstall()\n")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{root}", _FILE: str(_path(folder))}


def read_stamps(folder: Path) -> list[Stamp]:
    """All stamps so far, in order; empty before the first."""
    if not _path(folder).exists():
        return []
    *lines, _ = _path(folder).read_text().split("\n")  # the last line may be incomplete
    return [Stamp(*map(float, line.split())) for line in lines]


def install() -> None:
    """Install an import hook that wraps `update_params` when mmengine is imported."""
    sys.meta_path.insert(0, _Finder())


def _path(folder: Path) -> Path:
    return folder / "stamps"


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _WRAPPED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        assert spec.loader is not None
        spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """The module's own loader, which wraps `update_params` after it has run."""

    def __init__(self, own: Loader) -> None:
        self._own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._own.exec_module(module)
        wrapper = module.OptimWrapper
        wrapper.update_params = _stamped(wrapper.update_params)


def _stamped(update_params: Any) -> Any:
    stamps = Path(os.environ[_FILE]).open("a", buffering=1)  # noqa: SIM115  to the end of the process

    @functools.wraps(update_params)
    def update(self: Any, loss: Any, *arguments: Any, **options: Any) -> None:
        update_params(self, loss, *arguments, **options)
        stamps.write(f"{time.time()} {float(loss.detach())}\n")

    return update
