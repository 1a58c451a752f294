"""Compiles modules by torch.compile where that can be done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from typing import Any

from torch import nn

from orchestrator.contract import Event, StageContext

COMPILER_OPTIONS: dict[str, Any] = {"comprehensive_padding": False}
"""Of every compilation. On GPUs the compiler may round long strides up, and in torch 2.11 it can then read a tensor by
other strides than it was written with: other numbers, or memory out of bounds, and no word about it (test_compiling).
"""


def compile_in_place(modules: Iterable[nn.Module], context: StageContext) -> bool:
    """Compile each of `modules`, or say that it cannot be done here and go on without; returns whether it can."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        context.emit(Event(f"compile: there is no C++ compiler {compiler!r} here (set CXX); going on uncompiled"))
        return False
    for module in modules:
        module.compile(options=COMPILER_OPTIONS)
    return True
