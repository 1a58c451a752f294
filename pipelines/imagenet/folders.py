"""What folders in ImageNet's layout hold: classes, image files, a digest of both. Decodes nothing, imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.artifact import digest_of
from orchestrator.errors import DataError
from pipelines.fingerprint import digest_of_folders

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Split = Literal["train", "val"]
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})
NAMES_SHOWN = 10


@dataclass(frozen=True)
class Index:
    """The images of a split: paths relative to `root`, sorted, each with its class's place in `classes`."""

    root: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def names(self) -> tuple[str, ...]:
        return self.paths

    def read(self, place: int) -> bytes:
        return (self.root / self.paths[place]).read_bytes()

    def shuffled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.permutation(len(self))


def fingerprint(root: Path, *, num_classes: int | None) -> str:
    """Digest of both splits and of the class list.

    Raises DataError for a missing or empty folder, classes that differ between the splits, or another count than
    `num_classes`.
    """
    digest = digest_of_folders(root, ("train", "val"))
    return digest_of([load_classes(root, num_classes=num_classes), digest])


def fingerprint_val(root: Path, *, num_classes: int | None) -> str:
    """Digest of val alone, which is all that an evaluation reads; raises DataError as `fingerprint` does."""
    digest = digest_of_folders(root, ("val",))
    return digest_of([load_val_classes(root, num_classes=num_classes), digest])


def load_classes(root: Path, *, num_classes: int | None) -> tuple[str, ...]:
    """Sorted names of the class folders in train, which val has too; raises DataError as `fingerprint` does."""
    train, val = _class_folders(root / "train"), _class_folders(root / "val")
    if train != val:
        only_train, only_val = sorted(set(train) - set(val)), sorted(set(val) - set(train))
        raise DataError(
            f"{root}: train and val have different classes; only in train: {named(only_train)}; "
            f"only in val: {named(only_val)}"
        )
    _check_count(root, train, num_classes)
    return train


def load_val_classes(root: Path, *, num_classes: int | None) -> tuple[str, ...]:
    """Sorted names of the class folders in val, whatever train holds; raises DataError as `fingerprint` does."""
    classes = _class_folders(root / "val")
    _check_count(root, classes, num_classes)
    return classes


def load_index(root: Path, split: Split, classes: Sequence[str]) -> Index:
    """Every image of `split`; raises DataError for a class without images."""
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        folder = root / split / name
        found = sorted(os.path.relpath(path, root) for path in _images_below(folder))
        if not found:
            raise DataError(f"{folder}: the class folder holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        paths += found
        labels += [label] * len(found)
    return Index(root, tuple(classes), tuple(paths), tuple(labels))


def named(names: Sequence[str]) -> str:
    """The first names and how many more there are, for an error's text."""
    if not names:
        return "none"
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"


def _check_count(root: Path, classes: Sequence[str], num_classes: int | None) -> None:
    if num_classes not in (None, len(classes)):
        raise DataError(
            f"{root}: holds {len(classes)} classes, but num_classes says {num_classes}; correct it or leave it out"
        )


def _class_folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder}: missing; the stage's `data` must hold {folder.name}/<class>/")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{folder}: holds no class folders; images belong into {folder.name}/<class>/")
    return tuple(names)


def _images_below(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield os.path.join(parent, name)  # noqa: PTH118  Path costs 5 s on ImageNet's 1.3 M files
