"""Images in ImageNet's layout: `train/<class>/*` and `val/<class>/*`. Decodes nothing, imports no
torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import DataError
from pipelines.data.digests import digest_of_files
from pipelines.data.files import Listing, list_files
from pipelines.imagenet.source import IMAGE_SUFFIXES, Split, is_image, sample_key

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Index:
    """The images of a split as files: paths relative to `root`, each with the index of its class in
    `classes`."""

    root: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def names(self) -> tuple[str, ...]:
        return self.paths

    def sample_keys(self) -> Iterator[str]:
        return map(sample_key, self.paths)

    def read(self, index: int) -> bytes:
        return (self.root / self.paths[index]).read_bytes()

    def shuffled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.permutation(len(self))


class Folders:
    """The class folder layout as ImageFiles; each split is walked once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listings: dict[Split, Listing] = {}

    @property
    def location(self) -> str:
        return str(self._root)

    def classes_in(self, split: Split) -> tuple[str, ...]:
        """Sorted names of the class folders; one may be empty, which `source` reports."""
        names = sorted(
            path.partition("/")[2]
            for path in self._listing(split).directories
            if path.count("/") == 1
        )
        if not names:
            folder = self._root / split
            raise DataError(f"{folder}: holds no class folders; put the images in {split}/<class>/")
        return tuple(names)

    def source(self, split: Split, classes: tuple[str, ...]) -> Index:
        paths_of = self._paths_of(split)
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            found = paths_of.get(name, [])
            if not found:
                folder, suffixes = self._root / split / name, ", ".join(sorted(IMAGE_SUFFIXES))
                raise DataError(
                    f"{folder}: the class folder holds no images ({suffixes}); add images, or "
                    "delete the class from both splits"
                )
            paths += found
            labels += [label] * len(found)
        return Index(self._root, classes, tuple(paths), tuple(labels))

    def digest(self, splits: Sequence[Split]) -> str:
        listings = [self._listing(split) for split in splits]
        files = [pair for one in listings for pair in zip(one.paths, one.sizes, strict=True)]
        return digest_of_files(self._root, files)

    def _paths_of(self, split: Split) -> dict[str, list[str]]:
        """Sorted paths of the images of each class that has any."""
        paths_of: dict[str, list[str]] = {}
        for path in self._listing(split).paths:
            _, name, *below = path.split("/", 2)
            if below and is_image(path.rpartition("/")[2]):
                paths_of.setdefault(name, []).append(path)
        return paths_of

    def _listing(self, split: Split) -> Listing:
        if split not in self._listings:
            self._listings[split] = list_files(self._root, split)
        return self._listings[split]


def load_index(root: Path, split: Split, classes: Sequence[str]) -> Index:
    """All images of `split`; raises DataError for a class without images."""
    return Folders(root).source(split, tuple(classes))
