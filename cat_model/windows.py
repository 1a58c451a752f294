"""Cuts maps into square windows and puts them together again.

Letters: B images, H and W map positions, C channels, P windows of a map in raster order, N positions of a window.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def split(x_BHWC: Tensor, window: int) -> Tensor:
    """x_BPNC; a map that the window does not divide grows zeros at its right and bottom."""
    B, height, width, C = x_BHWC.shape
    pad_h, pad_w = -height % window, -width % window
    if pad_h or pad_w:
        x_BHWC = F.pad(x_BHWC, (0, 0, 0, pad_w, 0, pad_h))
    rows, columns = (height + pad_h) // window, (width + pad_w) // window
    x_BrNcNC = x_BHWC.view(B, rows, window, columns, window, C)
    return x_BrNcNC.transpose(2, 3).reshape(B, rows * columns, window * window, C)


def merge(x_BPNC: Tensor, height: int, width: int, window: int) -> Tensor:
    """x_BHWC of `height` x `width`: the inverse of `split`, cropped where it padded."""
    B, _, _, C = x_BPNC.shape
    rows, columns = -(-height // window), -(-width // window)
    x_BrcNNC = x_BPNC.view(B, rows, columns, window, window, C)
    return x_BrcNNC.transpose(2, 3).reshape(B, rows * window, columns * window, C)[:, :height, :width]
