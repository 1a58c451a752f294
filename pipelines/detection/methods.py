"""The detectors by name: what each measures, and the settings that only some of them have. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Literal

MethodName = Literal["mask_rcnn", "retinanet", "fcos", "atss", "cascade_rcnn"]


@dataclass(frozen=True)
class Settings:
    """Values of the params that only some methods have; None: this one has no such thing."""

    anchor_scale: float | None = None
    fc_channels: int | None = None
    num_rois: int | None = None

    @property
    def names(self) -> frozenset[str]:
        """Of the settings that there are."""
        return frozenset(field.name for field in fields(self) if getattr(self, field.name) is not None)


@dataclass(frozen=True)
class Method:
    """What the rest of the house has to know about a detector; its network is in the module of its name."""

    settings: Settings
    """As published."""
    has_masks: bool = False
    channels_divisor: int = 1
    """What must divide `channels`."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("box_map", "box_map50", "mask_map", "mask_map50") if self.has_masks else ("box_map", "box_map50")


GROUP = 8
"""Channels that the heads of FCOS and ATSS normalise together: as published, 32 groups of 256."""

METHODS: Mapping[MethodName, Method] = MappingProxyType(
    {
        "mask_rcnn": Method(Settings(anchor_scale=8.0, fc_channels=1024, num_rois=512), has_masks=True),
        "retinanet": Method(Settings(anchor_scale=4.0)),
        "fcos": Method(Settings(), channels_divisor=GROUP),
        "atss": Method(Settings(anchor_scale=8.0), channels_divisor=GROUP),
        "cascade_rcnn": Method(Settings(anchor_scale=8.0, fc_channels=1024, num_rois=512)),
    }
)
