"""The table of kinds. Importing it imports neither torch nor ray: kinds name their entry points as
strings."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from orchestrator.contract import Kind
from pipelines.detection import kind as detection
from pipelines.pretrain import kind as pretrain
from pipelines.segmentation import kind as segmentation

KINDS: Mapping[str, Kind] = MappingProxyType(
    {kind.name: kind for kind in (pretrain.KIND, detection.KIND, segmentation.KIND)}
)
