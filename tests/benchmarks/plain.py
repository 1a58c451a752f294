"""The reference's arithmetic, written plainly, with the parameters of our model.

Every block cuts its map into windows and joins them again. Attention is four linear layers, two
products and a softmax. Nothing is folded, fused or skipped. Map sides must be divisible by the
window, as in the reference.

Letters: B images, I input channels, H and W positions, C channels, P windows of a map, N positions
of a window, h heads, d channels of a head, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from cat_model import Cat
from cat_model.attention import Cpsa, Ipsa
from cat_model.stage import AttentionBlock, CatStage, Group


class PlainCat(nn.Module):
    """Images x_BIHW -> logits_BK by the plain arithmetic; equal to `model` up to rounding."""

    def __init__(self, model: Cat) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_BIHW: Tensor) -> Tensor:
        x_BHWC: Tensor = self.model.embed(x_BIHW)
        for stage in self.model.stages:
            assert isinstance(stage, CatStage)
            x_BHWC = stage.downsample(x_BHWC)
            for group in stage.blocks:
                assert isinstance(group, Group)
                x_BHWC = _run_group(group, x_BHWC)
        return self.model.forward_head(self.model.norm(x_BHWC))


def _run_group(group: Group, x_BHWC: Tensor) -> Tensor:
    for block, attend in ((group.pre_ipsa, _ipsa), (group.cpsa, _cpsa), (group.post_ipsa, _ipsa)):
        x_BHWC = _run_block(block, attend, x_BHWC)
    return x_BHWC


def _run_block(block: AttentionBlock, attend: Callable[..., Tensor], x_BHWC: Tensor) -> Tensor:
    x_BHWC = x_BHWC + block.drop_path(attend(block.attn, block.norm1(x_BHWC)))
    hidden = functional.gelu(block.mlp.fc1(block.norm2(x_BHWC)))
    out: Tensor = x_BHWC + block.drop_path(block.mlp.fc2(hidden))
    return out


def _ipsa(attn: Ipsa, x_BHWC: Tensor) -> Tensor:
    x_BPNC = _cut(x_BHWC, attn.window)
    qkv_BPN3hd = attn.qkv(x_BPNC).unflatten(3, (3, attn.num_heads, -1))
    q_BPhNd, k_BPhNd, v_BPhNd = qkv_BPN3hd.permute(3, 0, 1, 4, 2, 5)
    scores_BPhNN = q_BPhNd * attn.scale @ k_BPhNd.mT + attn.position_bias()
    mixed_BPNC = (scores_BPhNN.softmax(dim=-1) @ v_BPhNd).transpose(2, 3).reshape(x_BPNC.shape)
    return _join(attn.proj(mixed_BPNC), attn.window, like=x_BHWC)


def _cpsa(attn: Cpsa, x_BHWC: Tensor) -> Tensor:
    x_BCPN = _cut(x_BHWC, attn.window).permute(0, 3, 1, 2)
    q_BCPN, k_BCPN, v_BCPN = attn.qkv(x_BCPN).chunk(3, dim=-1)
    scores_BCPP = q_BCPN * attn.scale @ k_BCPN.mT
    mixed_BCPN = attn.proj(scores_BCPP.softmax(dim=-1) @ v_BCPN)
    return _join(mixed_BCPN.permute(0, 2, 3, 1), attn.window, like=x_BHWC)


def _cut(x_BHWC: Tensor, window: int) -> Tensor:
    """Cut a map into x_BPNC, with windows in raster order."""
    B, height, width, C = x_BHWC.shape
    grid = x_BHWC.view(B, height // window, window, width // window, window, C)
    return grid.transpose(2, 3).reshape(B, -1, window**2, C)


def _join(x_BPNC: Tensor, window: int, *, like: Tensor) -> Tensor:
    """Join windows to x_BHWC with the shape of `like`; the inverse of `_cut`."""
    B, height, width, C = like.shape
    grid = x_BPNC.reshape(B, height // window, width // window, window, window, C)
    return grid.transpose(2, 3).reshape(B, height, width, C)
