"""The segmenters by name, with the published widths of their parts. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

MethodName = Literal["semantic_fpn", "upernet"]


@dataclass(frozen=True)
class Widths:
    """Channels of a segmenter's parts."""

    pyramid: int
    """Channels of the feature pyramid, which is UperNet's head."""
    head: int
    """Channels of Semantic FPN's head, or of UperNet's auxiliary head."""


WIDTHS: Mapping[MethodName, Widths] = MappingProxyType(
    {"semantic_fpn": Widths(pyramid=256, head=128), "upernet": Widths(pyramid=512, head=256)}
)
