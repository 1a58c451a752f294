"""Checks the images of annotation files: they must decode and have the size for which their boxes
were drawn."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from orchestrator.contract import StageContext
from orchestrator.errors import DataError
from pipelines.data.image_files import BrokenImageError, upright_size
from pipelines.detection.annotations.coco import Annotations
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.images import broken_images, faults, first_faulty


def check_images(files: Collection[Annotations], context: StageContext) -> frozenset[Path]:
    """The images to leave out, because they cannot be decoded.

    Raises DataError if there are too many, or if an image is missing or differs in size from its
    annotation file.
    """
    params: DetectionParams = context.params
    paths = [path for file in files for path in file.image_paths]
    broken = broken_images(
        paths,
        max_broken_images=params.max_broken_images,
        num_threads=params.loader_workers,
        context=context,
    )
    said = {
        path: size
        for file in files
        for path, size in file.image_sizes.items()
        if path not in broken
    }
    wrong = faults(
        list(said),
        lambda path: _size_fault(path, said[path]),
        num_threads=params.loader_workers,
        context=context,
    )
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(said)} images have another size than in their annotation file: "
            f"{first_faulty(wrong)}; their boxes cannot be trusted; correct the file or replace "
            "the images"
        )
    return broken


def _size_fault(path: Path, said: tuple[int, int]) -> str | None:
    try:
        size = upright_size(path)
    except BrokenImageError as err:  # broke after the check above
        return str(err)
    return None if size == said else "{}x{} pixels instead of {}x{}".format(*size, *said)
