"""Decides whether a linear layer may be computed from its weights or must be called.

Attention folds the matrices of adjacent layers into one, which skips their calls. That is valid
only for a plain layer: a replacement layer or a hook acts in the call.
"""

from __future__ import annotations

from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def can_skip_calls(*layers: nn.Module) -> bool:
    """Whether calling each of `layers` only multiplies by its `weight` and adds its `bias`.

    Hooks on all modules of the process do not count: FlopCounterMode sets some, and must see what
    really runs.
    """
    return all(_is_plain(layer) for layer in layers)


def has_hooks(module: nn.Module) -> bool:
    """Whether calls of `module` run hooks; pruning and `weight_norm` set the weight in a hook."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _is_plain(layer: nn.Module) -> bool:
    """Whether `layer` is exactly nn.Linear; adapters, quantised and parametrised layers are other
    classes."""
    return (
        type(layer) is nn.Linear
        and "forward" not in layer.__dict__  # offloading replaces it on the instance
        and not has_hooks(layer)
        and not is_traceable_wrapper_subclass(layer.weight)  # sharded and quantised tensors
    )
