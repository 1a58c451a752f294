"""Writes the sample into a folder: only missing files, each atomically, and the list of files
last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import DataError

LIST_NAME = "sample.json"
VERSION = 1
"""Increased when the same size gives other files."""


@dataclass(frozen=True)
class Size:
    """How much of the sample to make; `scans_per_class` counts both splits, None uses all scans."""

    train_scenes: int = 400
    val_scenes: int = 100
    scans_per_class: int | None = None


@dataclass(frozen=True)
class SampleSummary:
    """Number of files in the sample, and of those that were missing or broken and so were
    written."""

    num_files: int
    num_written: int


def write_sample(root: Path, size: Size) -> SampleSummary:
    """Write the missing files of the sample of `size` to `root`; existing files are kept.

    Raises DataError if `root` holds a sample of another size or cannot be written.
    """
    try:
        listed = _load_list(root, size)
        if listed and all(_digest(root / path) == digest for path, digest in listed.items()):
            return SampleSummary(len(listed), 0)
        return _write(root, size)
    except OSError as err:
        raise DataError(
            f"{err.filename or root}: cannot write the sample: {err.strerror}; choose a writable "
            "folder"
        ) from err


def _write(root: Path, size: Size) -> SampleSummary:
    digests: dict[str, str] = {}
    num_written = 0
    root.mkdir(parents=True, exist_ok=True)
    for path, content in _files(size):
        digests[path] = hashlib.sha256(content).hexdigest()
        if _digest(root / path) != digests[path]:
            _write_file(root / path, content)
            num_written += 1
    document = {"version": VERSION, "size": asdict(size), "files": digests}
    _write_file(root / LIST_NAME, json.dumps(document, indent=1, sort_keys=True).encode())
    return SampleSummary(len(digests), num_written)


def _files(size: Size) -> Iterator[tuple[str, bytes]]:
    from pipelines.sample import layouts, scans  # noqa: PLC0415  needed only if something is missing

    scans_of = scans.split_scans(scans.load_scans(), scans_per_class=size.scans_per_class)
    yield from layouts.imagenet_files("train", scans_of["train"])
    yield from layouts.imagenet_files("val", scans_of["val"])
    yield from layouts.scene_files("train", scans_of["train"], size.train_scenes)
    yield from layouts.scene_files("val", scans_of["val"], size.val_scenes)
    yield from layouts.class_files()


def _load_list(root: Path, size: Size) -> dict[str, str] | None:
    """Digests by path, as an earlier call wrote them; None if it did not finish."""
    path = root / LIST_NAME
    if not path.is_file():
        return None
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        held, files = (document["version"], document["size"]), dict(document["files"])
    except (ValueError, TypeError, KeyError) as err:
        raise DataError(
            f"{path}: not a list of sample files; delete the folder or choose another"
        ) from err
    if held != (VERSION, asdict(size)):
        raise DataError(
            f"{root}: holds a different sample, {held[1]} of version {held[0]}; delete it or "
            "choose another folder"
        )
    return files


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def _write_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
