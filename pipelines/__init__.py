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
CALLING_OPS = frozenset({detection.KIND.name, segmentation.KIND.name})
"""The kinds that call ops of mmcv."""
FIND_OPS = "pipelines.openmmlab.ops:find_ops"
"""`module:function` that returns the implementation of each of these ops in its process."""
