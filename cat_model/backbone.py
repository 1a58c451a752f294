"""CAT as the backbone of detectors and segmenters: returns a pyramid of normalised maps.

Letters: B images, I input channels, H and W positions (of pixels or of a map), C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from cat_model.config import CatConfig
from cat_model.trunk import Trunk


class CatBackbone(Trunk):
    """The backbone: images x_BIHW -> a normalised map x_BCHW for each of `out_indices`.

    A map has ceil(H / patch_size / 2**stage) rows. Stages after the last index are not built, so
    that every parameter takes part in the result.
    """

    output_fmt = "NCHW"

    def __init__(self, config: CatConfig, *, out_indices: Sequence[int] = (0, 1, 2, 3)) -> None:
        indices = _checked_indices(out_indices, num_stages=len(config.depths))
        super().__init__(config, num_stages=indices[-1] + 1)
        self.frozen_stages: int | None = None
        self.out_indices = indices
        for index in self.out_indices:
            self.add_module(f"norm{index}", nn.LayerNorm(config.dims[index]))
        self._init_weights()

    def forward(self, x_BIHW: Tensor) -> tuple[Tensor, ...]:
        maps_BHWC = self.forward_maps(x_BIHW)
        return tuple(
            self.get_submodule(f"norm{i}")(maps_BHWC[i]).permute(0, 3, 1, 2).contiguous()
            for i in self.out_indices
        )

    def freeze(self, num_stages: int) -> None:
        """Freeze the embeddings and the first `num_stages` stages: they neither learn nor drop out.

        The norms of the maps still learn, because pretraining does not include them. Raises
        ValueError if the backbone has fewer stages.
        """
        if not 0 <= num_stages <= len(self.stages):
            raise ValueError(f"num_stages must be within 0..{len(self.stages)}, got {num_stages}")
        self.frozen_stages = num_stages
        if self.ape is not None:
            self.ape.requires_grad_(False)
        for module in self._frozen():
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _frozen(self) -> tuple[nn.Module, ...]:
        if self.frozen_stages is None:
            return ()
        return (self.patch_embed, self.pos_drop, *self.stages[: self.frozen_stages])


def _checked_indices(out_indices: Sequence[int], *, num_stages: int) -> tuple[int, ...]:
    indices = tuple(out_indices)
    if (
        not indices
        or list(indices) != sorted(set(indices))
        or indices[0] < 0
        or indices[-1] >= num_stages
    ):
        raise ValueError(f"out_indices must increase within 0..{num_stages - 1}, got {indices}")
    return indices
