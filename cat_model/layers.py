"""Decides whether a linear layer may be computed from its weights, or has to be called.

Attention folds the matrices of neighbouring layers into one, which skips their calls. Only a plain
layer allows that: anything else that someone puts there, or hooks to it, acts in the call.
"""

from __future__ import annotations

from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def can_skip_calls(*layers: nn.Module) -> bool:
    """Whether a call of each of `layers` multiplies by its `weight`, adds its `bias`, and does
    nothing else.

    Hooks on all modules of the process do not count: FlopCounterMode sets some, and is to see what
    really runs.
    """
    return all(_is_plain(layer) for layer in layers)


def has_hooks(module: nn.Module) -> bool:
    """Whether calls of `module` run hooks: pruning and `weight_norm` set the weight in one."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _is_plain(layer: nn.Module) -> bool:
    """Adapters and quantised layers are other classes, and parametrisations make one."""
    return (
        type(layer) is nn.Linear
        and "forward" not in layer.__dict__  # offloading puts its own there
        and not has_hooks(layer)
        and not is_traceable_wrapper_subclass(layer.weight)  # sharded and quantised tensors
    )
