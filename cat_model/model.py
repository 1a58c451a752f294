"""CAT as a classifier, with the methods that timm users expect of a model.

Letters: B images, I input channels, H and W positions (of pixels or of a map), C channels, K
classes.
"""

from collections.abc import Sequence
from dataclasses import replace

from timm.layers import ClassifierHead
from timm.models._features import feature_take_indices
from torch import Tensor, nn, no_grad

from cat_model.config import CatConfig
from cat_model.embedding import resize_ape
from cat_model.tracing import unscripted
from cat_model.trunk import Trunk, init_linear


class Cat(Trunk):
    """The classifier: images x_BIHW -> logits_BK, or pooled features x_BC without classes.

    `global_pool` is one of timm's poolings: avg (the reference's), max, avgmax or catavgmax. An
    empty string disables pooling and returns the map x_BHWC.
    """

    def __init__(self, config: CatConfig, *, num_classes: int, global_pool: str = "avg") -> None:
        super().__init__(config, num_stages=len(config.depths))
        _check_num_classes(num_classes)
        self.num_classes = num_classes
        self.global_pool = global_pool
        self.num_features = config.dims[-1]
        self.norm: nn.Module = nn.LayerNorm(self.num_features)
        self.head = ClassifierHead(
            self.num_features, num_classes, pool_type=global_pool, input_fmt="NHWC"
        )
        self.head_hidden_size = self.head.num_features
        self._init_weights()

    def forward_features(self, x_BIHW: Tensor) -> Tensor:
        """The last map, normalised and not pooled: x_BHWC."""
        x_BHWC = self.embed(x_BIHW)
        for stage in self.stages:
            x_BHWC = stage(x_BHWC)
        normed: Tensor = self.norm(x_BHWC)
        return normed

    def forward_head(self, x_BHWC: Tensor, pre_logits: bool = False) -> Tensor:
        """logits_BK, or with `pre_logits` the pooled x_BC."""
        x: Tensor = self.head(x_BHWC, pre_logits=True) if pre_logits else self.head(x_BHWC)
        return x

    def forward(self, x_BIHW: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x_BIHW))

    @unscripted
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of the stages `indices` (an int: the last that many; None: all), and the last
        features.

        `norm` normalises the map of the last stage, the only one that the classifier has a norm
        for. `stop_early` skips the stages after the last index, and then the norm too. `output_fmt`
        (NCHW or NHWC) applies to the intermediate maps; the features stay x_BHWC.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt must be NCHW or NHWC, got {output_fmt!r}")
        taken, last = feature_take_indices(len(self.stages), indices)
        maps_BHWC = self.forward_maps(x, last + 1 if stop_early else len(self.stages))
        x_BHWC = maps_BHWC[-1]
        if len(maps_BHWC) == len(self.config.depths):
            x_BHWC = self.norm(x_BHWC)
            maps_BHWC[-1] = x_BHWC if norm else maps_BHWC[-1]
        maps = [_laid_out(maps_BHWC[i], output_fmt) for i in sorted(set(taken))]
        return maps if intermediates_only else (x_BHWC, maps)

    @unscripted
    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes the parts that the maps of the stages `indices` do not need; returns these
        indices, counted from 0."""
        taken, last = feature_take_indices(len(self.stages), indices)
        is_cut = last + 1 < len(self.stages)
        if is_cut and not prune_head:
            raise ValueError(
                "prune_head must be True when stages are removed: the head fits stage "
                f"{last + 1} or later"
            )
        if is_cut or prune_norm:
            self.norm = nn.Identity()  # it fits only the last stage
        self.stages, self.feature_info = self.stages[: last + 1], self.feature_info[: last + 1]
        self.num_features = self.config.dims[last]
        if prune_head:
            self.reset_classifier(0, "")
        return list(taken)

    @unscripted
    def get_classifier(self) -> nn.Module:
        """The linear layer from features to logits; an Identity without classes."""
        classifier: nn.Module = self.head.fc
        return classifier

    @unscripted
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a new, random one over `num_classes` (0: none); `global_pool`
        None keeps the pooling."""
        _check_num_classes(num_classes)
        reference = self.patch_embed.proj.weight
        self.head.reset(num_classes, pool_type=global_pool, in_features=self.num_features)
        self.head.to(device=reference.device, dtype=reference.dtype)
        if isinstance(self.head.fc, nn.Linear):
            init_linear(self.head.fc)
        self.num_classes = num_classes
        self.head_hidden_size = self.head.num_features
        self.global_pool = self.global_pool if global_pool is None else global_pool

    @unscripted
    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, patch_size: int | None = None
    ) -> None:
        """Interpolates the position embedding to the map of `img_size` once, instead of for each
        batch.

        None changes nothing. `patch_size` must be the current one.
        """
        if patch_size not in (None, self.config.patch_size):
            raise ValueError(f"patch_size must stay {self.config.patch_size}, got {patch_size}")
        if img_size is None:
            return
        self.config = replace(self.config, img_size=img_size)
        if self.ape is not None:
            with no_grad():
                ape_1HWC = resize_ape(self.ape, self.config.map_hw).clone()
            self.ape = nn.Parameter(ape_1HWC, requires_grad=self.ape.requires_grad)


def _laid_out(x_BHWC: Tensor, output_fmt: str) -> Tensor:
    return x_BHWC.permute(0, 3, 1, 2).contiguous() if output_fmt == "NCHW" else x_BHWC


def _check_num_classes(num_classes: int) -> None:
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 0:
        raise ValueError(
            f"num_classes must be a whole number, 0 for features only, got {num_classes!r}"
        )
