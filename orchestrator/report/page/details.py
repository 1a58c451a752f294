"""What an evaluation publishes in addition to its metrics -> tables and small pictures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

PICTURE_SIDE = 560
"""Pixels of the longer side on the page."""
MAX_PICTURES = 8
"""Pictures of one stage."""
MAX_MATRIX = 20
"""Classes of a confusion matrix that is shown as a table; a larger one is a picture."""
MAX_CLASSES = 200
"""Rows of a table by class; the artifact has all of them."""


@dataclass
class Budget:
    """How many bytes of pictures the page may still take."""

    left: int
    num_left_out: int = 0

    def data_uri(self, picture: bytes, media_type: str) -> str | None:
        """The picture as a `data:` URI; None if it does not fit any more."""
        uri = f"data:{media_type};base64,{base64.b64encode(picture).decode()}"
        if len(uri) > self.left:
            self.num_left_out += 1
            return None
        self.left -= len(uri)
        return uri


@dataclass(frozen=True)
class Picture:
    name: str
    uri: str


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: shares of the true class in %, by true and predicted class."""

    classes: tuple[str, ...]
    counted: str
    shares: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Details:
    """The parts of an evaluation's details that the page shows."""

    columns: tuple[str, ...] = ()
    classes: tuple[tuple[str | float | None, ...], ...] = ()
    """A row for each class."""
    num_classes: int = 0
    matrix: Matrix | None = None
    pictures: tuple[Picture, ...] = ()
    remarks: tuple[str, ...] = field(default=())
    """What is damaged, and so not shown."""


def make_details(files: Mapping[str, bytes], budget: Budget) -> Details:
    """The details in `files`, by path in the artifact."""
    remarks: list[str] = []
    columns, classes = _guarded(_classes, files, "per_class.json", remarks) or ((), ())
    matrix = _guarded(_matrix, files, "confusion.json", remarks)
    pictures = [path for path in sorted(files) if path.startswith("painted/")]
    shown = [] if matrix is not None else [path for path in files if path == "confusion.png"]
    budget.num_left_out += max(0, len(pictures) - MAX_PICTURES)
    return Details(
        columns=columns,
        classes=classes[:MAX_CLASSES],
        num_classes=len(classes),
        matrix=matrix,
        pictures=tuple(_pictures(files, [*shown, *pictures[:MAX_PICTURES]], budget, remarks)),
        remarks=tuple(remarks),
    )


def _guarded(read: Any, files: Mapping[str, bytes], path: str, remarks: list[str]) -> Any:
    """What `read` makes of a JSON file; None with a remark if it is damaged, None if missing."""
    if path not in files:
        return None
    try:
        return read(json.loads(files[path]))
    except (ValueError, KeyError, TypeError, IndexError) as err:
        remarks.append(f"{path} is damaged and not shown: {type(err).__name__}: {err}")
        return None


def _classes(
    document: Any,
) -> tuple[tuple[str, ...], tuple[tuple[str | float | None, ...], ...]]:
    rows = document["classes"]
    columns = tuple(rows[0])
    return columns, tuple(tuple(row[column] for column in columns) for row in rows)


def _matrix(document: Any) -> Matrix | None:
    classes = tuple(document["classes"])
    if len(classes) > MAX_MATRIX:
        return None
    counts = [[0] * len(classes) for _ in classes]
    for true, predicted, count in document["counts"]:
        counts[true][predicted] = count
    shares = tuple(tuple(100 * count / (sum(row) or 1) for count in row) for row in counts)
    return Matrix(classes, str(document["counted"]), shares)


def _pictures(
    files: Mapping[str, bytes], paths: Iterable[str], budget: Budget, remarks: list[str]
) -> Iterable[Picture]:
    for path in paths:
        try:
            small = _small_jpeg(files[path])
        except (OSError, ValueError, Image.DecompressionBombError) as err:
            remarks.append(f"{path} is damaged and not shown: {err}")
            continue
        uri = budget.data_uri(small, "image/jpeg")
        if uri is not None:
            yield Picture(path, uri)


def _small_jpeg(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as picture:
        small = picture.convert("RGB")
        small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        output = io.BytesIO()
        small.save(output, "JPEG", quality=80)
    return output.getvalue()
