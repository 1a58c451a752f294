"""Where a stage's data are: in a folder that the job names, or in one made here from a sample. Imports no torch."""

from __future__ import annotations

import fcntl
import os
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from orchestrator.contract import Role
from orchestrator.errors import DataError
from pipelines.sample.folder import VERSION, Size, write_sample

Layout = Literal["imagenet", "coco", "ade20k"]
SAMPLE = "sample:"
SAMPLES = ("digits",)
S3 = "s3://"


def _known_sample(data: str) -> str:
    if data.startswith(SAMPLE) and data.removeprefix(SAMPLE) not in SAMPLES:
        raise ValueError(f"unknown sample {data!r}; known: {', '.join(SAMPLE + name for name in SAMPLES)}")
    return data


def _on_disk(data: str) -> str:
    if data.startswith(S3):
        raise ValueError(f"must be a folder, not {data!r}: this kind reads no data from S3")
    return data


Data = Annotated[str, AfterValidator(_known_sample), AfterValidator(_on_disk), Role.DATA]
"""A folder, or `sample:digits`: handwritten digits in the kind's layout, made on each machine that needs them."""

ImageData = Annotated[str, AfterValidator(_known_sample), Role.DATA]
"""As `Data`, or `s3://BUCKET/PREFIX` with shards."""


def data_place(data: str, layout: Layout) -> str:
    """The folder of `data` as `data_folder` has it, or its `s3://BUCKET/PREFIX` as it stands."""
    return data.rstrip("/") if data.startswith(S3) else str(data_folder(data, layout))


def data_folder(data: str, layout: Layout) -> Path:
    """The folder of `data`; a sample is made first, once a machine. Raises DataError when that cannot be written."""
    return _sample_folder() / layout if data.startswith(SAMPLE) else Path(data)


def cache_folder() -> Path:
    """This user's cache on this machine; it may be missing yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orchestrator"


@cache
def _sample_folder() -> Path:
    """The sample in this user's cache, whole. Workers that start together wait for the one that makes it."""
    caches = cache_folder()
    try:
        caches.mkdir(parents=True, exist_ok=True)
        with (caches / "sample.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder = caches / f"sample-digits-{VERSION}"
            write_sample(folder, Size())
    except OSError as err:
        raise DataError(
            f"{caches}: the sample cannot be kept here: {err.strerror}; set XDG_CACHE_HOME to a folder "
            "that can be written"
        ) from err
    return folder
