"""The detectors by name: their metrics, and the settings that only some of them have. Does not
import torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal

MethodName = Literal["mask_rcnn", "retinanet", "fcos", "atss", "cascade_rcnn"]


AVERAGES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "map": {},
        "map50": {"iou": 0.5},
        "map75": {"iou": 0.75},
        "map_small": {"area": "small"},
        "map_medium": {"area": "medium"},
        "map_large": {"area": "large"},
    }
)
"""The names of metrics after `box_` or `mask_`, and the subset that each averages (by default
all)."""
TRAINED = ("map", "map50")
"""The metrics that training reports."""


@dataclass(frozen=True)
class MethodSettings:
    """Values of the params that only some methods have; None: this method does not have the
    setting."""

    anchor_scale: float | None = None
    fc_channels: int | None = None
    num_rois: int | None = None

    @property
    def names(self) -> frozenset[str]:
        """Names of the settings that the method has."""
        return frozenset(
            field.name for field in fields(self) if getattr(self, field.name) is not None
        )


@dataclass(frozen=True)
class Method:
    """The properties of a detector that other modules need. Its network is in the module of its
    name."""

    settings: MethodSettings
    """The published settings."""
    has_masks: bool = False
    channels_divisor: int = 1
    """`channels` must be a multiple of this number."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of a training."""
        return self._names(TRAINED)

    @property
    def all_metrics(self) -> tuple[str, ...]:
        """Names of the metrics of an evaluation, which leaves out sizes that no object in val
        has."""
        return self._names(AVERAGES)

    def _names(self, averages: Iterable[str]) -> tuple[str, ...]:
        nouns = ("box", "mask") if self.has_masks else ("box",)
        return tuple(f"{noun}_{name}" for noun in nouns for name in averages)


GROUP = 8
"""Channels that the heads of FCOS and ATSS normalise together; as published, 32 groups of 256
channels."""

METHODS: Mapping[MethodName, Method] = MappingProxyType(
    {
        "mask_rcnn": Method(
            MethodSettings(anchor_scale=8.0, fc_channels=1024, num_rois=512), has_masks=True
        ),
        "retinanet": Method(MethodSettings(anchor_scale=4.0)),
        "fcos": Method(MethodSettings(), channels_divisor=GROUP),
        "atss": Method(MethodSettings(anchor_scale=8.0), channels_divisor=GROUP),
        "cascade_rcnn": Method(MethodSettings(anchor_scale=8.0, fc_channels=1024, num_rois=512)),
    }
)
