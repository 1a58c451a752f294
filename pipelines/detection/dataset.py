"""mmdet's data set in COCO's layout, with a check that it holds the objects counted before."""

from __future__ import annotations

from typing import Any

from orchestrator.errors import DataError
from pipelines.openmmlab.library import quiet_import

with quiet_import():
    from mmdet.datasets import CocoDataset
    from mmdet.registry import DATASETS


@DATASETS.register_module()
class CountedCoco(CocoDataset):  # type: ignore[misc]  # untyped base
    """A CocoDataset that raises DataError, before the first update, if mmdet holds a different
    number of objects than counted."""

    def __init__(self, *, num_objects: int, **options: Any) -> None:
        self._num_objects = num_objects
        super().__init__(**options)

    def filter_data(self) -> list[dict[str, Any]]:
        """The images to train on. Counts their objects here, before mmdet serialises them."""
        images: list[dict[str, Any]] = super().filter_data()
        num_held = sum(not one["ignore_flag"] for image in images for one in image["instances"])
        check_num_objects(self.ann_file, num_held=num_held, num_counted=self._num_objects)
        return images


def check_num_objects(path: object, *, num_held: int, num_counted: int) -> None:
    """Raises DataError if a reader holds a different number of objects than the check of the file
    counted."""
    if num_held != num_counted:
        raise DataError(
            f"{path}: holds {num_counted} objects, but its reader finds {num_held}: it interprets "
            "names, ids or flags differently; write them as COCO's own files do"
        )
