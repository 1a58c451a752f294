"""What every source of images is to the rest: encoded files by index, with their labels, names and
a shuffle."""

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
    """The images of one split. It travels to loader processes, so it pickles."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label is an index of them."""

    @property
    def labels(self) -> Sequence[int]:
        """The label of every image."""

    @property
    def names(self) -> Sequence[str]:
        """The name of every image in messages."""

    def sample_keys(self) -> Iterable[str]:
        """For every image, what `sample_key` makes of its path, in shards too that were made of
        such paths."""

    def __len__(self) -> int:
        """Number of images."""

    def read(self, index: int) -> bytes:
        """The encoded image at `index`.

        Raises OSError when this image cannot be read, DataError when more than that is wrong.
        """

    def shuffled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Every index once, in an order for one epoch that this source can read fast."""


class ImageFiles(Protocol):
    """The images at one location in one of the layouts. All methods raise DataError for what is
    missing or wrong."""

    @property
    def location(self) -> str:
        """The folder or `s3://BUCKET/PREFIX`."""

    def classes_in(self, split: Split) -> tuple[str, ...]:
        """Names of the classes that `split` has, in the order of their labels."""

    def source(self, split: Split, classes: tuple[str, ...]) -> ImageSource:
        """The images of `split`, of which each of `classes` has one at least."""

    def digest(self, splits: Sequence[Split]) -> str:
        """Digest of all that `splits` hold: names, sizes, labels, and the bytes too where these are
        few."""


def is_image(name: str) -> bool:
    """By its suffix; called a million times, for which pathlib is too slow."""
    stem, dot, suffix = name.rpartition(".")
    return bool(stem) and dot + suffix.lower() in IMAGE_SUFFIXES


def sample_key(path: str) -> str:
    """An image's key in the shards that are made of it: its path below the folder of its split,
    without the suffix.

    A key ends at the first dot of the file's name, so that dots in it become `_`.
    """
    stem, _, _ = path.removeprefix("train/").removeprefix("val/").rpartition(".")
    folder, slash, file = stem.rpartition("/")
    return folder + slash + file.replace(".", "_")
