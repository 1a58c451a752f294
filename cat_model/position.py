"""The absolute position embedding `ape`: the layouts that it was stored in, and other map sizes.

Letters: 1 (it serves every image of a batch), H and W positions of the first map, L = HW, C channels.
"""

import math

import torch.nn.functional as F
from torch import Tensor

from cat_model.errors import WeightsError
from cat_model.tracing import holds


def resize_ape(ape_1HWC: Tensor, map_hw: tuple[int, int]) -> Tensor:
    """ape_1HWC at the size `map_hw`, bicubic; itself where it has that size already."""
    height, width = map_hw
    has_size = holds(ape_1HWC.shape[1] == height) and holds(ape_1HWC.shape[2] == width)
    if has_size:  # interpolation to its own size is the identity
        return ape_1HWC
    ape_1CHW = F.interpolate(ape_1HWC.permute(0, 3, 1, 2), size=[height, width], mode="bicubic")
    return ape_1CHW.permute(0, 2, 3, 1)


def as_map(ape: Tensor, *, map_hw: tuple[int, int], is_reference: bool) -> Tensor:
    """ape_1HWC from the reference's ape_1LC (classifier) or ape_1CHW (backbone), or from ours.

    An ape_1LC of another length than `map_hw` is a square, else WeightsError. Other shapes stay as they are.
    """
    if ape.ndim == 3:
        return ape.reshape(ape.shape[0], *_sides(ape.shape[1], map_hw), ape.shape[2])
    return ape.permute(0, 2, 3, 1) if ape.ndim == 4 and is_reference else ape


def _sides(length: int, map_hw: tuple[int, int]) -> tuple[int, int]:
    if length == map_hw[0] * map_hw[1]:
        return map_hw
    side = math.isqrt(length)
    if side == 0 or side * side != length:
        raise WeightsError(
            f"ape has {length} positions, neither {map_hw[0]} x {map_hw[1]}, the model's map, nor a square"
        )
    return side, side
