"""The step of mmseg's pipelines that loads label maps, with the same reader that checked them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.errors import DataError
from pipelines.data.image_files import BrokenImageError
from pipelines.openmmlab.library import TRANSFORMS
from pipelines.openmmlab.recipe import Config
from pipelines.segmentation.label_maps import labels_of, read_label_map


@TRANSFORMS.register_module()
class LoadLabelMap:
    """Loads the label map at `seg_map_path`, with classes counted from 0.

    mmseg's own step keeps the values to which Pillow scales 2-bit and 4-bit grey.
    """

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Raises DataError if the file broke after it was checked."""
        path = Path(sample["seg_map_path"])
        try:
            labels = labels_of(read_label_map(path))
        except BrokenImageError as err:
            raise DataError(
                f"{path}: {err}; the file changed during the stage; restore it"
            ) from err
        return {**sample, "gt_seg_map": labels, "seg_fields": [*sample["seg_fields"], "gt_seg_map"]}


LOAD_LABELS: Config = {"type": LoadLabelMap.__name__}
