"""The shape of a CAT network: its fields, their constraints, its JSON form and the three published
sizes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

PatchEmbed = Literal["conv", "slice"]

# Far above any published CAT; they keep a config read from a file from requesting all memory.
_LARGEST_WIDTH = 16_384
_LARGEST_DEPTH = 1_000


@dataclass(frozen=True)
class CatConfig:
    """Everything that a CAT's tensors and function depend on, except the classifier's number of
    classes."""

    img_size: tuple[int, int] | int = 224
    """Image size in pixels, (H, W) or one number for a square. The position embedding `ape` has the
    map of this size."""
    in_chans: int = 3
    patch_size: int = 4
    """Side and stride in pixels of a patch of the embedding (the reference's `patch_emb_size`)."""
    window_size: int = 7
    """Side of an attention window, in map positions (the reference's `patch_size`)."""
    embed_dim: int = 96
    """Channels of the first stage; each later stage doubles them."""
    depths: tuple[int, ...] = (1, 1, 3, 1)
    """Groups (IPSA, CPSA, IPSA) in each stage."""
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    """Heads of IPSA in each stage; CPSA always has one."""
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_scale: float | None = None
    """Factor on q k^T in IPSA and CPSA; None: head_dim ** -0.5."""
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    """Drop path rate of the last group; it rises linearly from 0 at the first."""
    ape: bool = True
    """Whether there is a learned absolute position embedding."""
    patch_norm: bool = True
    patch_embed: PatchEmbed = "conv"
    """`slice`: two space-to-depth steps and a 1x1 convolution, with patch_size 4."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "img_size", _as_pair(self.img_size))
        for name in ("depths", "num_heads"):
            object.__setattr__(self, name, _as_counts(name, getattr(self, name)))
        for name in ("in_chans", "patch_size", "window_size", "embed_dim"):
            _require_count(name, getattr(self, name), at_most=_LARGEST_WIDTH)
        for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
            _require_rate(name, getattr(self, name))
        for name in ("qkv_bias", "ape", "patch_norm"):
            _require(
                isinstance(getattr(self, name), bool), name, "be true or false", getattr(self, name)
            )
        _require_positive("mlp_ratio", self.mlp_ratio)
        if self.qk_scale is not None:
            _require_positive("qk_scale", self.qk_scale)
        self._check_stages()
        self._check_patches()

    @property
    def image_hw(self) -> tuple[int, int]:
        """`img_size` as (height, width)."""
        assert isinstance(self.img_size, tuple)
        return self.img_size

    @property
    def map_hw(self) -> tuple[int, int]:
        """Height and width of the first stage's map at `img_size`."""
        height, width = self.image_hw
        return math.ceil(height / self.patch_size), math.ceil(width / self.patch_size)

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))

    def to_dict(self) -> dict[str, object]:
        """The fields as JSON values; `from_dict` reads them back."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, object]) -> CatConfig:
        """A config from JSON values. Raises ValueError for an unknown field or a value that breaks
        its constraint."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(content) - known)
        if unknown:
            raise ValueError(
                f"unknown fields {', '.join(unknown)}: a CatConfig has {', '.join(sorted(known))}"
            )
        values = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content.items()
        }
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ checks the type of each field

    def _check_stages(self) -> None:
        _require(len(self.depths) <= 8, "depths", "have at most 8 stages", self.depths)
        _require(
            sum(self.depths) <= _LARGEST_DEPTH,
            "depths",
            f"add up to at most {_LARGEST_DEPTH}",
            self.depths,
        )
        hidden = int(self.embed_dim * self.mlp_ratio)
        _require(
            hidden >= 1,
            "mlp_ratio",
            f"leave a channel of embed_dim {self.embed_dim}",
            self.mlp_ratio,
        )
        if len(self.depths) != len(self.num_heads):
            raise ValueError(
                "num_heads must have one entry per stage, like depths: got num_heads "
                f"{self.num_heads} "
                f"and depths {self.depths}"
            )
        for stage, (dim, heads) in enumerate(zip(self.dims, self.num_heads, strict=True)):
            if dim % heads:
                raise ValueError(
                    f"num_heads must divide the width of their stage: stage {stage} has {dim} "
                    f"channels (embed_dim {self.embed_dim} x {2**stage}) and {heads} heads"
                )

    def _check_patches(self) -> None:
        _require(
            self.patch_embed in get_args(PatchEmbed),
            "patch_embed",
            "be 'conv' or 'slice'",
            self.patch_embed,
        )
        if self.patch_embed == "slice":
            _require(
                self.patch_size == 4, "patch_size", "be 4 with patch_embed 'slice'", self.patch_size
            )
        _require(
            min(self.image_hw) >= self.patch_size,
            "img_size",
            f"be at least a patch ({self.patch_size} pixels) high and wide",
            self.image_hw,
        )


def _require(is_met: bool, name: str, constraint: str, seen: object) -> None:
    if not is_met:
        raise ValueError(f"{name} must {constraint}, got {seen!r}")


def _require_count(name: str, value: object, *, at_most: int) -> None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= at_most
    _require(is_count, name, f"be a whole number from 1 to {at_most}", value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require_positive(name: str, value: float) -> None:
    _require(_is_number(value) and 0 < value <= _LARGEST_WIDTH, name, "be a number above 0", value)


def _require_rate(name: str, value: float) -> None:
    _require(_is_number(value) and 0 <= value < 1, name, "be a number from 0 to below 1", value)


def _as_pair(img_size: Sequence[int] | int) -> tuple[int, int]:
    sides = tuple(img_size) if isinstance(img_size, Sequence) else (img_size, img_size)
    _require(len(sides) == 2, "img_size", "be a pair (height, width) or one number", img_size)
    for side in sides:
        is_side = (
            isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= _LARGEST_WIDTH
        )
        _require(
            is_side,
            "img_size",
            f"be one or two whole numbers of pixels, up to {_LARGEST_WIDTH}",
            img_size,
        )
    return sides[0], sides[1]


def _as_counts(name: str, values: object) -> tuple[int, ...]:
    is_list = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
    _require(is_list, name, "be a list with one whole number per stage", values)
    assert isinstance(values, Sequence)
    for value in values:
        _require_count(name, value, at_most=_LARGEST_DEPTH)
    return tuple(values)


CONFIGS: Mapping[str, CatConfig] = {
    "cat_tiny": CatConfig(embed_dim=64, num_heads=(2, 4, 8, 16), drop_path_rate=0.1),
    "cat_small": CatConfig(drop_path_rate=0.2),
    "cat_base": CatConfig(depths=(1, 1, 6, 1), drop_path_rate=0.3),
}
"""CAT-T, CAT-S and CAT-B, with the drop path rates of their ImageNet recipes."""
