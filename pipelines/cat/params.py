"""The network in a job: one of CAT's published sizes, or custom settings. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from orchestrator.contract import Check, Misfit, Params, Usual

ModelName = Literal["cat_tiny", "cat_small", "cat_base"]


class ModelParams(Params):
    """Settings of a CAT; the defaults are cat_small's with the drop path of cat_tiny."""

    img_size: Annotated[int, Field(ge=8, le=2048)] = 224
    """Side of the square input in pixels, for training and evaluation."""
    patch_size: Annotated[int, Field(ge=1, le=32)] = 4
    """Side in pixels of the patch that becomes a token."""
    window_size: Annotated[int, Field(ge=2, le=32)] = 7
    """Side in tokens of an attention window."""
    embed_dim: Annotated[int, Field(ge=1, le=4096)] = 96
    """Channels of the first stage; each stage doubles them."""
    depths: Annotated[
        tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=6)
    ] = (1, 1, 3, 1)
    """Groups of blocks in each stage."""
    num_heads: Annotated[tuple[Annotated[int, Field(ge=1, le=256)], ...], Field(min_length=1)] = (
        3,
        6,
        12,
        24,
    )
    """Attention heads in each stage; their number divides the stage's channels."""
    mlp_ratio: Annotated[float, Field(gt=0, le=16)] = 4.0
    """Ratio of an MLP's hidden channels to its input channels."""
    qkv_bias: bool = True
    """Whether queries, keys and values have a bias."""
    qk_scale: Annotated[float, Field(gt=0)] | None = None
    """Factor on q k^T; None: 1 / sqrt(channels of a head)."""
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout after embedding and projections."""
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Drop path rate of the last group; it rises linearly from 0."""
    ape: bool = True
    """Whether an absolute position embedding is added."""
    patch_norm: bool = True
    """Whether patches are normalised after embedding."""
    patch_embed: Literal["conv", "slice"] = "conv"
    """How patches are embedded."""

    def checks(self) -> tuple[Check, ...]:
        return (self._patches_fit, self._slices_fit, self._stages_agree, self._heads_divide)

    def _patches_fit(self) -> Iterator[Misfit]:
        if self.patch_size > self.img_size:
            message = f"patch_size {self.patch_size} exceeds img_size {self.img_size}"
            yield Misfit((self.written("patch_size", "img_size"),), message)

    def _slices_fit(self) -> Iterator[Misfit]:
        if self.patch_embed == "slice" and self.patch_size != 4:  # noqa: PLR2004  two halvings
            message = (
                f"patch_size {self.patch_size} cannot be used with patch_embed: slice, which "
                "needs 4; set patch_size: 4 or patch_embed: conv"
            )
            yield Misfit(("patch_size",), message)

    def _stages_agree(self) -> Iterator[Misfit]:
        if len(self.num_heads) != len(self.depths):
            message = (
                f"num_heads has {len(self.num_heads)} stages, but depths has {len(self.depths)}"
            )
            yield Misfit((self.written("num_heads", "depths"),), message)

    def _heads_divide(self) -> Iterator[Misfit]:
        for stage, heads in enumerate(self.num_heads):
            if (self.embed_dim << stage) % heads:
                field = self.written("num_heads", "embed_dim")
                yield Misfit(
                    (field, stage) if field == "num_heads" else (field,),
                    f"num_heads[{stage}] = {heads} does not divide the stage's channels, "
                    f"embed_dim * 2**{stage} = {self.embed_dim << stage}",
                )


def _form(value: Any) -> str:
    return "name" if isinstance(value, str) else "settings"


Model = Annotated[
    Annotated[ModelName, Tag("name")] | Annotated[ModelParams, Tag("settings")],
    # Reports faults only of the form that was written, not of both.
    Discriminator(_form),
]


PUBLISHED: Mapping[ModelName, ModelParams] = MappingProxyType(
    {
        "cat_tiny": ModelParams(embed_dim=64, num_heads=(2, 4, 8, 16), drop_path_rate=0.1),
        "cat_small": ModelParams(drop_path_rate=0.2),
        "cat_base": ModelParams(depths=(1, 1, 6, 1), drop_path_rate=0.3),
    }
)
"""The published sizes as settings: `cat_model.CONFIGS` without the import of torch."""


def settings_of(model: ModelName | ModelParams) -> ModelParams:
    """The settings of `model`."""
    return model if isinstance(model, ModelParams) else PUBLISHED[model]


def usual_name(model: ModelName | ModelParams) -> Usual:
    """How `model` counts in a key: settings equal to a published size count as its name; a name
    counts as itself."""
    written = model.model_dump(mode="json") if isinstance(model, ModelParams) else model
    name = next((name for name, settings in PUBLISHED.items() if settings == model), None)
    return Usual(written, counts_as=name or written)


def img_size_of(model: ModelName | ModelParams) -> int:
    """Side of the square input in pixels."""
    return settings_of(model).img_size
