"""Compiles modules with torch.compile if a C++ compiler is available."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

from torch import nn

from cat_model.tracing import COMPILER_OPTIONS
from orchestrator.contract import Event, StageContext


def compile_in_place(modules: Iterable[nn.Module], context: StageContext) -> bool:
    """Compile each of `modules` and return True, or emit an event and return False if there is no
    compiler."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        context.emit(
            Event(
                f"compile: C++ compiler {compiler!r} not found (set CXX to use another); "
                "continuing without compilation"
            )
        )
        return False
    for module in modules:
        module.compile(options=COMPILER_OPTIONS)
    return True
