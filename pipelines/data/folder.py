"""Where a stage's data are: in a folder that the job names, or in one made here from a sample.
Imports no torch."""

from __future__ import annotations

import fcntl
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from orchestrator.contract import Event, Role, StageContext
from orchestrator.errors import DataError, StoppedError
from pipelines.data.download import ProgressReporter
from pipelines.data.listing import PIECES, list_remote
from pipelines.data.node_cache import fetch
from pipelines.data.remembered import cache_folder
from pipelines.data.s3 import is_remote
from pipelines.sample.folder import VERSION, Size, write_sample

Layout = Literal["imagenet", "coco", "ade20k"]
SAMPLE = "sample:"
SAMPLES = ("digits",)


def _known_sample(data: str) -> str:
    if data.startswith(SAMPLE) and data.removeprefix(SAMPLE) not in SAMPLES:
        raise ValueError(
            f"unknown sample {data!r}; known: {', '.join(SAMPLE + name for name in SAMPLES)}"
        )
    return data


Data = Annotated[str, AfterValidator(_known_sample), Role.DATA]
"""A folder; `s3://BUCKET/PREFIX`, fetched by each machine that needs it; or `sample:digits`:
handwritten digits in the kind's layout, made on each machine."""

ImageData = Annotated[str, AfterValidator(_known_sample), Role.DATA]
"""As `Data`, but in S3 only shards, which are read as they are needed."""


def data_location(data: str, layout: Layout) -> str:
    """The folder of `data` as `data_folder` has it, or its `s3://BUCKET/PREFIX` unchanged."""
    return data.rstrip("/") if is_remote(data) else str(data_folder(data, layout))


def data_folder(
    data: str, layout: Layout, *splits: str, report_progress: ProgressReporter = lambda _: None
) -> Path:
    """The folder of `data`, which holds `splits` at least; none named: all.

    A sample is made, and data of S3 are fetched, first, once a machine; `report_progress` hears how
    far that is, and ends it where it raises. Raises DataError when that cannot be written or the
    data are not there, UnreachableError when S3 does not answer.
    """
    if data.startswith(SAMPLE):
        return _sample_folder() / layout
    if not is_remote(data):
        return Path(data)
    asked = frozenset(splits or PIECES[layout])
    for (known, held), folder in _FETCHED.items():
        if known == (data, layout) and asked <= held:
            return folder
    listing = list_remote(data, layout, sorted(asked))
    return _FETCHED.setdefault(
        ((data, layout), asked), fetch(listing, cache_folder(), report_progress)
    )


def stage_data_folder(context: StageContext, layout: Layout, *splits: str) -> Path:
    """The same of the stage's `data`; its events say how far that is. Raises StoppedError when it
    should stop."""

    def report_progress(text: str) -> None:
        context.emit(Event(text))
        if context.should_stop():
            raise StoppedError(
                "stopped while fetching its data; the fetched part stays on this machine"
            )

    return data_folder(context.params.data, layout, *splits, report_progress=report_progress)


_FETCHED: dict[tuple[tuple[str, Layout], frozenset[str]], Path] = {}
"""What this process has fetched: all of a stage reads the data as they were when it began."""


def fingerprint_remote(data: str, layout: Layout, *splits: str) -> str:
    """Digest of `splits` of data in S3, from a listing; raises as `data_folder`."""
    return list_remote(data, layout, splits).digest


@cache
def _sample_folder() -> Path:
    """The sample in this user's cache, whole. Workers that start together wait for the one that
    makes it."""
    caches = cache_folder()
    try:
        caches.mkdir(parents=True, exist_ok=True)
        with (caches / "sample.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder = caches / f"sample-digits-{VERSION}"
            write_sample(folder, Size())
    except OSError as err:
        raise DataError(
            f"{caches}: cannot store the sample here: {err.strerror}; set XDG_CACHE_HOME to a "
            "writable folder"
        ) from err
    return folder
