"""Locates a stage's data: a folder that the job names, or a folder made here for a sample or data
in S3. Imports no torch."""

from __future__ import annotations

import fcntl
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from orchestrator.cache_room import cache_folder
from orchestrator.contract import Event, Role, StageContext
from orchestrator.errors import DataError, StoppedError
from pipelines.data.download import ProgressReporter
from pipelines.data.listing import PIECES, list_remote
from pipelines.data.node_cache import fetch
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
"""Like `Data`, but S3 may hold only shards, which are read as needed."""


def data_location(data: str, layout: Layout) -> str:
    """The folder of `data` (see `data_folder`), or its `s3://BUCKET/PREFIX` unchanged."""
    return data.rstrip("/") if is_remote(data) else str(data_folder(data, layout))


def data_folder(
    data: str, layout: Layout, *splits: str, report_progress: ProgressReporter = lambda _: None
) -> Path:
    """The folder of `data`, which holds at least `splits`, or all splits if none is given.

    First makes a sample or fetches data from S3, once per machine. `report_progress` gets progress
    texts; it can stop the fetch by raising. Raises DataError if the data do not exist or cannot be
    stored, and UnreachableError if S3 does not answer.
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
    """The folder of the stage's `data`, with progress as events. Raises StoppedError if the stage
    should stop."""

    def report_progress(text: str) -> None:
        context.emit(Event(text))
        if context.should_stop():
            raise StoppedError(
                "stopped while fetching its data; the fetched part stays on this machine"
            )

    return data_folder(context.params.data, layout, *splits, report_progress=report_progress)


_FETCHED: dict[tuple[tuple[str, Layout], frozenset[str]], Path] = {}
"""Folders that this process fetched: the whole stage reads the data as they were when it began."""


def fingerprint_remote(data: str, layout: Layout, *splits: str) -> str:
    """Digest of `splits` of data in S3, from a listing; raises like `data_folder`."""
    return list_remote(data, layout, splits).digest


@cache
def _sample_folder() -> Path:
    """The complete sample in this user's cache. Workers that start together wait for the one that
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
