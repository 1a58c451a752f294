"""Typed markers for torch.jit and for timm's torch.fx tracer, and options for torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from timm.models import register_notrace_function, register_notrace_module
from torch import Tensor, jit, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true

Function = TypeVar("Function", bound=Callable[..., Any])
Module = TypeVar("Module", bound=type[nn.Module])

COMPILER_OPTIONS: dict[str, Any] = {"comprehensive_padding": False}
"""Options of every compilation. On GPUs the compiler may round long strides up. In torch 2.11 it
can then read a tensor with other strides than it was written with: wrong numbers or out-of-bounds
reads, without an error (test_compiling)."""

is_scripting: Callable[[], bool] = jit.is_scripting  # type: ignore[attr-defined]
is_tracing: Callable[[], bool] = jit.is_tracing  # type: ignore[attr-defined]


def holds(condition: bool) -> bool:
    """Whether a condition on shapes is true; for compilers and exporters: for every shape in scope.

    For sizes that may change they then take the general path, instead of making one program for
    each path.
    """
    if is_scripting():
        return condition
    else:  # noqa: RET505 - the script compiler reads only the branch that it takes
        # torch.jit.trace tracks shapes as tensors, and keeps the traced size.
        if isinstance(condition, Tensor):
            return bool(condition)
        return statically_known_true(condition)


def whole_function(function: Function) -> Function:
    """Mark as one node for torch.fx, because it branches on the shape of its input."""
    register_notrace_function(function)
    return function


def whole_module(module: Module) -> Module:
    """Mark as one node for torch.fx, because it branches on the shape of its input."""
    register_notrace_module(module)
    return module


def unscripted(method: Function) -> Function:
    """Mark as Python only: torch.jit.script does not compile it."""
    ignored: Function = jit.ignore(method)  # type: ignore[no-untyped-call]
    return ignored
