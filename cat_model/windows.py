"""Cuts maps into square windows and joins them again.

Letters: B images, H and W map positions, C channels, P windows of a map in raster order, S
positions along a window.
"""

import torch.nn.functional as F
from torch import Tensor

from cat_model.tracing import holds, whole_function


def is_windowed(x: Tensor) -> bool:
    """Whether x has windows (x_BPSSC) rather than being a map (x_BHWC)."""
    return x.ndim == 5


def fits_window(x_BHWC: Tensor, window: int) -> bool:
    """Whether a map fits into one window."""
    return holds(x_BHWC.shape[1] <= window) and holds(x_BHWC.shape[2] <= window)


def split(x_BHWC: Tensor, window: int) -> Tensor:
    """x_BPSSC; zeros pad a map that the window does not divide at its right and bottom."""
    B, height, width, C = x_BHWC.shape
    rows, columns = (height + window - 1) // window, (width + window - 1) // window
    pad_h, pad_w = rows * window - height, columns * window - width
    if not (holds(pad_h == 0) and holds(pad_w == 0)):
        x_BHWC = F.pad(x_BHWC, (0, 0, 0, pad_w, 0, pad_h))
    x_BrcSSC = x_BHWC.view(B, rows, window, columns, window, C).transpose(2, 3)
    return x_BrcSSC.reshape(B, rows * columns, window, window, C)


def merge(x_BPSSC: Tensor, height: int, width: int) -> Tensor:
    """x_BHWC of `height` x `width`: the inverse of `split`, without the padding."""
    B, _, window, _, C = x_BPSSC.shape
    rows, columns = (height + window - 1) // window, (width + window - 1) // window
    x_BrScSC = x_BPSSC.view(B, rows, columns, window, window, C).transpose(2, 3)
    x_BHWC = x_BrScSC.reshape(B, rows * window, columns * window, C)
    if holds(rows * window == height) and holds(columns * window == width):
        return x_BHWC
    return F.pad(x_BHWC, (0, 0, 0, width - columns * window, 0, height - rows * window))


@whole_function
def to_windows(x_BHWC: Tensor, window: int) -> Tensor:
    """x_BPSSC if the window divides the map; otherwise the map unchanged, for each attention to pad
    as it needs."""
    if holds(x_BHWC.shape[1] % window == 0) and holds(x_BHWC.shape[2] % window == 0):
        return split(x_BHWC, window)
    return x_BHWC


@whole_function
def to_map(x: Tensor, height: int, width: int) -> Tensor:
    """x_BHWC of `height` x `width`: the inverse of `to_windows`."""
    return merge(x, height, width) if is_windowed(x) else x
