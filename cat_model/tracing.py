"""Marks of torch.jit and of timm's torch.fx tracer, typed, and options for torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from timm.models import register_notrace_function, register_notrace_module
from torch import Tensor, jit, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true

Function = TypeVar("Function", bound=Callable[..., Any])
Module = TypeVar("Module", bound=type[nn.Module])

COMPILER_OPTIONS: dict[str, Any] = {"comprehensive_padding": False}
"""Options of every compilation. On GPUs the compiler may round long strides up, and in torch 2.11
it can then read a tensor by other strides than it was written with: other numbers, or memory out of
bounds, and no word about it (test_compiling).
"""

is_scripting: Callable[[], bool] = jit.is_scripting  # type: ignore[attr-defined]
is_tracing: Callable[[], bool] = jit.is_tracing  # type: ignore[attr-defined]


def holds(condition: bool) -> bool:
    """Whether a condition on shapes is true, for compilers and exporters: for every shape that they
    were asked for.

    They then take the general way for sizes that may change, rather than make one program for each
    way.
    """
    if is_scripting():
        return condition
    else:  # noqa: RET505 - the script compiler reads only the branch that it takes
        # Torch.jit.trace follows shapes as tensors, and keeps the traced size.
        if isinstance(condition, Tensor):
            return bool(condition)
        return statically_known_true(condition)


def whole_function(function: Function) -> Function:
    """One node for torch.fx, as it decides by the shape of its input."""
    register_notrace_function(function)
    return function


def whole_module(module: Module) -> Module:
    """One node for torch.fx, as it decides by the shape of its input."""
    register_notrace_module(module)
    return module


def unscripted(method: Function) -> Function:
    """For Python only: torch.jit.script does not read it."""
    ignored: Function = jit.ignore(method)  # type: ignore[no-untyped-call]
    return ignored
