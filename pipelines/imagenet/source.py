"""What every source of images is to the rest: encoded files by place, with their labels, names and a shuffle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class ImageSource(Protocol):
    """The images of one split. It travels to loader processes, so it pickles."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label is a place in them."""

    @property
    def labels(self) -> Sequence[int]:
        """Of every image."""

    @property
    def names(self) -> Sequence[str]:
        """Of every image, as messages name it."""

    def __len__(self) -> int:
        """Number of images."""

    def read(self, place: int) -> bytes:
        """The encoded image at `place`. Raises OSError when it cannot be read."""

    def shuffled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Every place once, in an order for one epoch that this source can read fast."""
