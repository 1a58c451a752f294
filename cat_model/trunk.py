"""The part that a classifier and a backbone share: patch embedding, absolute position, stages, and
their initial values.

Letters: B images, I input channels, H and W positions (of pixels or of a map), C channels.
"""

from typing import Any

from torch import Tensor, empty, nn

from cat_model.attention import Ipsa
from cat_model.config import CatConfig
from cat_model.embedding import PatchEmbedding, PositionEmbedding
from cat_model.stage import CatStage, Group
from cat_model.tracing import unscripted


class Trunk(nn.Module):
    """Patch embedding, absolute position and stages: the tensors that a classifier and a backbone
    share by name.

    Any image size of at least one pixel works. The window never shrinks with the map, so the
    weights fit at every size.
    """

    output_fmt = "NHWC"

    def __init__(self, config: CatConfig, *, num_stages: int) -> None:
        super().__init__()
        self.config = config
        self.in_chans = config.in_chans
        self.patch_embed = PatchEmbedding(config)
        self.ape = nn.Parameter(empty(1, *config.map_hw, config.embed_dim)) if config.ape else None
        self.pos_embed = PositionEmbedding()
        self.pos_drop = nn.Dropout(config.drop_rate)
        rates = _drop_paths(config)[:num_stages]
        self.stages = nn.ModuleList(
            CatStage(config, stage=i, drop_paths=stage_rates) for i, stage_rates in enumerate(rates)
        )
        self.feature_info = [
            {
                "num_chs": config.dims[i],
                "reduction": config.patch_size * 2**i,
                "module": f"stages.{i}",
            }
            for i in range(num_stages)
        ]
        """For each stage's map: its channels, its pixels per position, and the module that returns
        it."""

    def embed(self, x_BIHW: Tensor) -> Tensor:
        """x_BHWC before the first stage. Raises ValueError for anything but a batch of images."""
        x_BHWC = self.patch_embed(x_BIHW)
        if self.ape is not None:
            x_BHWC = self.pos_embed(x_BHWC, self.ape)
        dropped: Tensor = self.pos_drop(x_BHWC)
        return dropped

    def forward_maps(self, x_BIHW: Tensor, num_stages: int | None = None) -> list[Tensor]:
        """x_BHWC after each of the first `num_stages` stages (None: all), before any norm."""
        x_BHWC = self.embed(x_BIHW)
        maps: list[Tensor] = []
        for i, stage in enumerate(self.stages):
            if num_stages is None or i < num_stages:
                x_BHWC = stage(x_BHWC)
                maps.append(x_BHWC)
        return maps

    @unscripted
    def no_weight_decay(self) -> set[str]:
        """Names of the position parameters that weight decay skips, in addition to biases and
        norms."""
        names = {name for name, _ in self.named_parameters()}
        return {
            name
            for name in names
            if name == "ape" or name.endswith(".relative_position_bias_table")
        }

    @unscripted
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that order parameters by depth, for timm's layer-wise decay; `coarse` groups by
        stage instead of by group."""
        stages = r"^stages\.(\d+)"
        groups = [
            (r"^stages\.(\d+)\.downsample", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm", (99999,)),
        ]
        return {"stem": r"^ape$|^patch_embed", "blocks": stages if coarse else groups}

    @unscripted
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only each block's input in training and recompute the rest: less memory, a third
        more work.

        Off by default.
        """
        for module in self.modules():
            if isinstance(module, Group):
                module.grad_checkpointing = enable

    def _init_weights(self) -> None:
        """Sets the reference's initial values: truncated normal of std 0.02, biases 0; convolutions
        and norms keep torch's defaults.

        The name is not `init_weights`, because mmengine calls a backbone's method of that name
        after loading its pretrained weights.
        """
        if self.ape is not None:
            nn.init.trunc_normal_(self.ape, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module)
            elif isinstance(module, Ipsa):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)


def init_linear(linear: nn.Linear) -> None:
    nn.init.trunc_normal_(linear.weight, std=0.02)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def _drop_paths(config: CatConfig) -> list[list[float]]:
    """The drop path rate of each group, by stage: linear from 0 to the config's rate over all
    groups."""
    steps = max(sum(config.depths) - 1, 1)
    starts = [sum(config.depths[:stage]) for stage in range(len(config.depths))]
    return [
        [config.drop_path_rate * (start + group) / steps for group in range(depth)]
        for start, depth in zip(starts, config.depths, strict=True)
    ]
