"""A stage of CAT: its downsampling and its groups of blocks (IPSA, CPSA, IPSA).

Letters: B images, H and W map positions, C channels, P windows of a map, S positions along a
window.
"""

from collections.abc import Sequence

import torch
from timm.layers import DropPath, Mlp
from timm.models import checkpoint
from torch import Tensor, nn

from cat_model.attention import Cpsa, Ipsa
from cat_model.blocking import images_at_once
from cat_model.config import CatConfig
from cat_model.embedding import PatchProjection
from cat_model.tracing import is_scripting, unscripted
from cat_model.windows import to_map, to_windows


class AttentionBlock(nn.Module):
    """An attention and an MLP, each with a norm in front and a residual connection, for a map
    x_BHWC or windows x_BPSSC."""

    def __init__(
        self, dim: int, attn: Ipsa | Cpsa, *, mlp_ratio: float, drop: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class Group(nn.Module):
    """A group of blocks, IPSA, CPSA and IPSA: each has its own weights, all have the same drop path
    rate."""

    def __init__(self, config: CatConfig, *, stage: int, drop_path: float) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.pre_ipsa = _make_block(
            config, _make_ipsa(config, stage), stage=stage, drop_path=drop_path
        )
        self.cpsa = _make_block(config, _make_cpsa(config), stage=stage, drop_path=drop_path)
        self.post_ipsa = _make_block(
            config, _make_ipsa(config, stage), stage=stage, drop_path=drop_path
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.grad_checkpointing and not is_scripting():
            # one block at a time: stages 1, 2 and 4 have a single group, and recomputing a whole
            # group saves nothing
            for block in (self.pre_ipsa, self.cpsa, self.post_ipsa):
                x = checkpoint(block, x)
            return x
        out: Tensor = self.post_ipsa(self.cpsa(self.pre_ipsa(x)))
        return out


class CatStage(nn.Module):
    """Map x_BHWC -> map; every stage except stage 0 halves it first."""

    def __init__(self, config: CatConfig, *, stage: int, drop_paths: Sequence[float]) -> None:
        super().__init__()
        self.window = config.window_size
        self.mlp_ratio = config.mlp_ratio
        self.downsample = PatchProjection(config.dims[stage - 1]) if stage else nn.Identity()
        self.blocks = nn.Sequential(
            *(Group(config, stage=stage, drop_path=rate) for rate in drop_paths)
        )

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x_BHWC = self.downsample(x_BHWC)
        height, width = x_BHWC.shape[1], x_BHWC.shape[2]
        # LayerNorm and MLP do not depend on where a position is, so windows are cut once per stage,
        # not twice per block
        x = to_windows(x_BHWC, self.window)
        x = self.blocks(x) if is_scripting() else self._run_blocks(x)
        return to_map(x, height, width)

    @unscripted
    def _run_blocks(self, x: Tensor) -> Tensor:
        images = images_at_once(x, mlp_ratio=self.mlp_ratio, blocks=self.blocks)
        parts = [x] if images is None else torch.split(x, images)
        outs = [self.blocks(part) for part in parts]
        return outs[0] if len(outs) == 1 else torch.cat(outs)


def _make_block(
    config: CatConfig, attn: Ipsa | Cpsa, *, stage: int, drop_path: float
) -> AttentionBlock:
    return AttentionBlock(
        config.dims[stage],
        attn,
        mlp_ratio=config.mlp_ratio,
        drop=config.drop_rate,
        drop_path=drop_path,
    )


def _make_ipsa(config: CatConfig, stage: int) -> Ipsa:
    return Ipsa(
        config.dims[stage],
        num_heads=config.num_heads[stage],
        window=config.window_size,
        qkv_bias=config.qkv_bias,
        qk_scale=config.qk_scale,
        attn_drop=config.attn_drop_rate,
        proj_drop=config.drop_rate,
    )


def _make_cpsa(config: CatConfig) -> Cpsa:
    return Cpsa(
        window=config.window_size,
        qkv_bias=config.qkv_bias,
        qk_scale=config.qk_scale,
        attn_drop=config.attn_drop_rate,
        proj_drop=config.drop_rate,
    )
