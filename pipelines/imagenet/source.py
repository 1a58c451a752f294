"""The interface of image sources: encoded files by index, with labels, names and a shuffle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
)


class ImageSource(Protocol):
    """The images of one split. Sources are sent to loader processes, so they can be pickled."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label is an index into them."""

    @property
    def labels(self) -> Sequence[int]:
        """The label of every image."""

    @property
    def names(self) -> Sequence[str]:
        """The name of every image, for messages."""

    def sample_keys(self) -> Iterable[str]:
        """The `sample_key` of every image's path, also in shards that were made from such paths."""

    def __len__(self) -> int:
        """Number of images."""

    def read(self, index: int) -> bytes:
        """The encoded image at `index`.

        Raises OSError if only this image cannot be read, DataError if others are affected too.
        """

    def shuffled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Every index once, in a random order for one epoch that this source can read fast."""


class ImageFiles(Protocol):
    """The images at one location in one of the layouts. All methods raise DataError for missing or
    invalid data."""

    @property
    def location(self) -> str:
        """The folder or `s3://BUCKET/PREFIX`."""

    def classes_in(self, split: Split) -> tuple[str, ...]:
        """Names of the classes that `split` has, in the order of their labels."""

    def source(self, split: Split, classes: tuple[str, ...]) -> ImageSource:
        """The images of `split`; each of `classes` has at least one."""

    def digest(self, splits: Sequence[Split]) -> str:
        """Digest of the content of `splits`: names, sizes and labels, and for small data sets also
        the bytes."""


def is_image(name: str) -> bool:
    """Whether a file is an image, by its suffix; called a million times, for which pathlib is too
    slow."""
    stem, dot, suffix = name.rpartition(".")
    return bool(stem) and dot + suffix.lower() in IMAGE_SUFFIXES


def sample_key(path: str) -> str:
    """An image's key in the shards made from it: its path below the folder of its split, without
    the suffix.

    A key ends at the first dot of the file name, so other dots in the name become `_`.
    """
    stem, _, _ = path.removeprefix("train/").removeprefix("val/").rpartition(".")
    folder, slash, file = stem.rpartition("/")
    return folder + slash + file.replace(".", "_")
