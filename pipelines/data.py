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


def _known_sample(data: str) -> str:
    if data.startswith(SAMPLE) and data.removeprefix(SAMPLE) not in SAMPLES:
        raise ValueError(f"unknown sample {data!r}; known: {', '.join(SAMPLE + name for name in SAMPLES)}")
    return data


Data = Annotated[str, AfterValidator(_known_sample), Role.DATA]
"""A folder, or `sample:digits`: handwritten digits in the kind's layout, made on each machine that needs them."""


def data_folder(data: str, layout: Layout) -> Path:
    """The folder of `data`; a sample is made first, once a machine. Raises DataError when that cannot be written."""
    return _sample_folder() / layout if data.startswith(SAMPLE) else Path(data)


@cache
def _sample_folder() -> Path:
    """The sample in this user's cache, whole. Workers that start together wait for the one that makes it."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orchestrator"
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
