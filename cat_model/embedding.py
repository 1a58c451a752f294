"""Turns an image into the first map, adds positions to it, and turns a map into the next stage's
map.

The absolute position embedding `ape` has been stored in several layouts. It is resized for maps of
other sizes.

Letters: B images, I input channels, H and W positions (of pixels or of a map), L = HW, C channels,
1 (the position embedding is shared by all images of a batch).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from cat_model.config import CatConfig
from cat_model.tracing import holds, is_scripting, whole_module


@whole_module
class PatchEmbedding(nn.Module):
    """Image x_BIHW -> map x_BHWC, one position per patch; zeros pad the image to a multiple of the
    patch.

    Raises ValueError if the input is not a batch of images.
    """

    def __init__(self, config: CatConfig) -> None:
        super().__init__()
        self.in_chans = config.in_chans
        self.patch = config.patch_size
        self.is_slice = config.patch_embed == "slice"
        if self.is_slice:
            self.proj = nn.Conv2d(config.in_chans * self.patch**2, config.embed_dim, kernel_size=1)
        else:
            self.proj = nn.Conv2d(
                config.in_chans, config.embed_dim, kernel_size=self.patch, stride=self.patch
            )
        self.norm = nn.LayerNorm(config.embed_dim) if config.patch_norm else nn.Identity()

    def forward(self, x_BIHW: Tensor) -> Tensor:
        if not is_scripting():
            _check_images(x_BIHW, self.in_chans)
        height, width = x_BIHW.shape[2], x_BIHW.shape[3]
        pad_h = (height + self.patch - 1) // self.patch * self.patch - height
        pad_w = (width + self.patch - 1) // self.patch * self.patch - width
        if not (holds(pad_h == 0) and holds(pad_w == 0)):
            x_BIHW = F.pad(x_BIHW, (0, pad_w, 0, pad_h))
        if self.is_slice:
            x_BIHW = _slice_in_two(_slice_in_two(x_BIHW))
        x_BCHW: Tensor = self.proj(x_BIHW)
        x_BHWC: Tensor = self.norm(x_BCHW.permute(0, 2, 3, 1))
        return x_BHWC


@whole_module
class PositionEmbedding(nn.Module):
    """Map x_BHWC plus the embedding ape_1hwC, resized to the map; the caller owns the parameter."""

    def forward(self, x_BHWC: Tensor, ape_1hwC: Tensor) -> Tensor:
        return x_BHWC + resize_ape(ape_1hwC, (x_BHWC.shape[1], x_BHWC.shape[2]))


@whole_module
class PatchProjection(nn.Module):
    """Map x_BHWC -> half as high and wide with 2C channels; zeros pad an odd map to an even one
    first."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        B, height, width, C = x_BHWC.shape
        rows, columns = (height + 1) // 2, (width + 1) // 2
        if not (holds(height % 2 == 0) and holds(width % 2 == 0)):
            x_BHWC = F.pad(x_BHWC, (0, 0, 0, columns * 2 - width, 0, rows * 2 - height))
        x_Bh2w2C = x_BHWC.reshape(B, rows, 2, columns, 2, C)
        # the four positions of a square, column by column: (0,0), (1,0), (0,1), (1,1) as (row,
        # column)
        x_Bhw22C = x_Bh2w2C.permute(0, 1, 3, 4, 2, 5)
        out: Tensor = self.reduction(self.norm(x_Bhw22C.flatten(3)))
        return out


def _check_images(x_BIHW: Tensor, in_chans: int) -> None:
    """Raises ValueError, before any computation, for an input that no CAT accepts."""
    if x_BIHW.ndim != 4 or x_BIHW.shape[1] != in_chans or min(x_BIHW.shape[2:]) < 1:
        raise ValueError(
            f"the input must have the shape (images, {in_chans} channels, height, width), got "
            f"{tuple(x_BIHW.shape)}"
        )
    if not x_BIHW.is_floating_point():
        raise ValueError(f"the input must be normalised floats, got {x_BIHW.dtype}")


def _slice_in_two(x_BIHW: Tensor) -> Tensor:
    """Space to depth by 2; the channels of position (0,0) come first, then (1,0), (0,1) and (1,1)
    as (row, column)."""
    B, channels, height, width = x_BIHW.shape
    x_BIh2w2 = x_BIHW.view(B, channels, height // 2, 2, width // 2, 2)
    return x_BIh2w2.permute(0, 5, 3, 1, 2, 4).reshape(B, 4 * channels, height // 2, width // 2)


def resize_ape(ape_1HWC: Tensor, map_hw: tuple[int, int]) -> Tensor:
    """ape_1HWC resized to `map_hw` by bicubic interpolation; unchanged if it has that size."""
    height, width = map_hw
    has_size = holds(ape_1HWC.shape[1] == height) and holds(ape_1HWC.shape[2] == width)
    if has_size:  # interpolation to its own size is the identity
        return ape_1HWC
    ape_1CHW = F.interpolate(ape_1HWC.permute(0, 3, 1, 2), size=[height, width], mode="bicubic")
    return ape_1CHW.permute(0, 2, 3, 1)
