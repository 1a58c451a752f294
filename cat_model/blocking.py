"""Decides how many images of a batch a CPU processes at once, so that intermediate results stay in
its cache.

The widest map of a block, the hidden map of its MLP, fills tens of MB in the first stage of a
batch. Passing over it in eager float32 was measured at 15 to 30 % of a stage's time, forward and
backward; in bfloat16 there is nothing to gain. Images of a batch do not interact, so the split
changes only which random numbers drop path and dropout draw.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from cat_model.layers import has_hooks
from cat_model.tracing import is_tracing

# Hidden maps up to this size stay whole: smaller products would cost more than the cache saves.
_WHOLE_BYTES = 16 * 2**20
_PART_BYTES = 8 * 2**20


def images_at_once(x: Tensor, *, mlp_ratio: float, blocks: nn.Module) -> int | None:
    """Number of images of x (B, ..., C) to pass to `blocks` at a time; None means all."""
    if not _is_eager_float32_on_cpu(x) or _has_hooks(blocks):
        return None
    hidden_bytes = int(x.numel() * x.element_size() * mlp_ratio)
    if hidden_bytes <= _WHOLE_BYTES:
        return None
    return max(1, x.shape[0] * _PART_BYTES // hidden_bytes)


def _is_eager_float32_on_cpu(x: Tensor) -> bool:
    """Whether x is a plain eager float32 tensor on a CPU; tracers, compilers and exporters must see
    the whole batch."""
    is_eager = type(x) is Tensor and not (torch.compiler.is_compiling() or is_tracing())
    return (
        is_eager and x.is_cpu and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    )


def _has_hooks(blocks: nn.Module) -> bool:
    """Whether hooks observe the blocks; a hook must see the whole batch."""
    return _has_any_global_hook() or any(has_hooks(module) for module in blocks.modules())  # type: ignore[no-untyped-call]
