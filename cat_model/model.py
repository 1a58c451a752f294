"""CAT itself: one trunk, as a classifier (Cat) and as a backbone of detectors and segmenters (CatBackbone).

Letters: B images, I input channels, H and W positions (of pixels or of a map), C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import ClassifierHead
from torch import Tensor, empty, nn

from cat_model.attention import Ipsa
from cat_model.config import CatConfig
from cat_model.embedding import PatchEmbedding
from cat_model.position import resize_ape
from cat_model.stage import Stage


class Trunk(nn.Module):
    """Patch embedding, absolute position and stages: the tensors that a classifier and a backbone share by name.

    Any image size of at least one pixel works; the window never shrinks with the map, so weights fit at every size.
    """

    def __init__(self, config: CatConfig, *, num_stages: int) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config)
        self.ape = nn.Parameter(empty(1, *config.map_hw, config.embed_dim)) if config.ape else None
        self.pos_drop = nn.Dropout(config.drop_rate)
        rates = _drop_paths(config)[:num_stages]
        self.stages = nn.ModuleList(
            Stage(config, stage=i, drop_paths=stage_rates) for i, stage_rates in enumerate(rates)
        )

    def no_weight_decay(self) -> set[str]:
        """Names of the position parameters that weight decay leaves alone, besides biases and norms."""
        names = {name for name, _ in self.named_parameters()}
        return {name for name in names if name == "ape" or name.endswith(".relative_position_bias_table")}

    def forward_maps(self, x_BIHW: Tensor) -> list[Tensor]:
        """x_BHWC after each stage, not yet normed."""
        self._check_input(x_BIHW)
        x_BHWC: Tensor = self.patch_embed(x_BIHW)
        if self.ape is not None:
            x_BHWC = x_BHWC + resize_ape(self.ape, (x_BHWC.shape[1], x_BHWC.shape[2]))
        x_BHWC = self.pos_drop(x_BHWC)
        maps = []
        for stage in self.stages:
            x_BHWC = stage(x_BHWC)
            maps.append(x_BHWC)
        return maps

    def _check_input(self, x_BIHW: Tensor) -> None:
        if x_BIHW.ndim != 4 or x_BIHW.shape[1] != self.config.in_chans or min(x_BIHW.shape[2:]) < 1:
            raise ValueError(
                f"the input must have the shape (images, {self.config.in_chans} channels, height, width), "
                f"got {tuple(x_BIHW.shape)}"
            )
        if not x_BIHW.is_floating_point():
            raise ValueError(f"the input must be normalised floats, got {x_BIHW.dtype}")


class Cat(Trunk):
    """The classifier: images x_BIHW -> logits_BK."""

    def __init__(self, config: CatConfig, *, num_classes: int) -> None:
        super().__init__(config, num_stages=len(config.depths))
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = config.dims[-1]
        self.norm = nn.LayerNorm(self.num_features)
        self.head = ClassifierHead(self.num_features, num_classes, input_fmt="NHWC")
        _init_weights(self)

    def forward_features(self, x_BIHW: Tensor) -> Tensor:
        """The last map, normed and unpooled: x_BHWC."""
        x_BHWC: Tensor = self.norm(self.forward_maps(x_BIHW)[-1])
        return x_BHWC

    def forward_head(self, x_BHWC: Tensor, pre_logits: bool = False) -> Tensor:
        """logits_BK, or the pooled x_BC before them."""
        x: Tensor = self.head(x_BHWC, pre_logits=pre_logits)
        return x

    def forward(self, x_BIHW: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x_BIHW))


class CatBackbone(Trunk):
    """The backbone: images x_BIHW -> a normed map x_BCHW for each of `out_indices`.

    A map has ceil(H / patch_size / 2**stage) rows. Stages beyond the last index are not built, so that
    every parameter takes part in the result.
    """

    def __init__(self, config: CatConfig, *, out_indices: Sequence[int] = (0, 1, 2, 3)) -> None:
        indices = _checked_indices(out_indices, num_stages=len(config.depths))
        super().__init__(config, num_stages=indices[-1] + 1)
        self.out_indices = indices
        for index in self.out_indices:
            self.add_module(f"norm{index}", nn.LayerNorm(config.dims[index]))
        _init_weights(self)

    def forward(self, x_BIHW: Tensor) -> tuple[Tensor, ...]:
        maps_BHWC = self.forward_maps(x_BIHW)
        return tuple(
            self.get_submodule(f"norm{i}")(maps_BHWC[i]).permute(0, 3, 1, 2).contiguous() for i in self.out_indices
        )


def _drop_paths(config: CatConfig) -> list[list[float]]:
    """The drop path rate of each group, by stage: linear from 0 to the config's rate over all groups."""
    steps = max(sum(config.depths) - 1, 1)
    starts = [sum(config.depths[:stage]) for stage in range(len(config.depths))]
    return [
        [config.drop_path_rate * (start + group) / steps for group in range(depth)]
        for start, depth in zip(starts, config.depths, strict=True)
    ]


def _checked_indices(out_indices: Sequence[int], *, num_stages: int) -> tuple[int, ...]:
    indices = tuple(out_indices)
    if not indices or list(indices) != sorted(set(indices)) or indices[0] < 0 or indices[-1] >= num_stages:
        raise ValueError(f"out_indices must rise within 0..{num_stages - 1}, got {indices}")
    return indices


def _init_weights(model: Trunk) -> None:
    """The reference's start: truncated normal of std 0.02, biases 0; convolutions and norms as torch has them."""
    if model.ape is not None:
        nn.init.trunc_normal_(model.ape, std=0.02)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Ipsa):
            nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
