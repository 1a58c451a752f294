"""Images listed in a file with their labels: `train_map.txt` and `val_map.txt`, as in the
repositories of Swin and CAT."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from orchestrator.artifact import digest_of
from orchestrator.errors import DataError
from pipelines.data.digests import digest_of_files
from pipelines.data.faults import NUM_NAMED, data_errors, first_named, size_of_file
from pipelines.data.text import load_text_if_there
from pipelines.imagenet.folders import Index
from pipelines.imagenet.source import Split

CLASSES_NAME = "classes.txt"
_NUMBER = re.compile(r"-?\d+")


def map_name(split: Split) -> str:
    return f"{split}_map.txt"


class Line(NamedTuple):
    """A line of a map: its number, counted from 1, and its content."""

    number: int
    path: str
    label: str


class ClassMap:
    """The class map layout as ImageFiles. Lines are `path label`, split at a tab or the last space;
    empty lines are ignored.

    Paths are relative to the folder of the split if the first existing image is there, otherwise to
    `root`. A label is a class in classes.txt, or its index there, counted from 0. Without that
    file, the labels themselves are the classes, in numeric order if all are numbers.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lines_of: dict[Split, tuple[Line, ...]] = {}
        self._prefix_of: dict[Split, str | None] = {}

    @property
    def location(self) -> str:
        return str(self._root)

    def classes_in(self, split: Split) -> tuple[str, ...]:
        known = self._known_classes()
        used = self._labels(split, known)
        if known is not None:
            present = set(used)
            return tuple(name for name in known if name in present)
        return tuple(sorted(set(used), key=int if all(map(_NUMBER.fullmatch, used)) else None))

    def source(self, split: Split, classes: tuple[str, ...]) -> Index:
        labels_of = {name: label for label, name in enumerate(classes)}
        used = self._labels(split, self._known_classes())
        strange, missing = sorted(set(used) - set(classes)), sorted(set(classes) - set(used))
        if strange or missing:
            raise DataError(
                f"{self._map(split)}: classes without an image: {first_named(missing)}; unknown "
                f"classes: {first_named(strange)}"
            )
        return Index(
            self._root, classes, tuple(self._paths(split)), tuple(labels_of[name] for name in used)
        )

    def digest(self, splits: Sequence[Split]) -> str:
        """Digest of lines and images. A missing image counts only by its line, and reading it
        reports it as broken."""
        known = self._known_classes()
        listed = [
            list(zip(self._paths(split), self._labels(split, known), strict=True))
            for split in splits
        ]
        files = [file for split in splits for file in self._files(split)]
        return digest_of([listed, digest_of_files(self._root, files)])

    def _files(self, split: Split) -> list[tuple[str, int]]:
        """(path, size in bytes) of the existing images; raises DataError if none exists."""
        if self._prefix(split) is None:
            paths = [line.path for line in self._lines(split)]
            raise DataError(
                f"{self._map(split)}: none of its {len(paths)} images exists below {self._root} or "
                f"below {self._root / split}: {first_named(paths)}; correct the paths or complete "
                "the data set"
            )
        sizes = ((path, self._size(path)) for path in self._paths(split))
        return [(path, size) for path, size in sizes if size is not None]

    def _paths(self, split: Split) -> list[str]:
        """Paths of the images, relative to the root."""
        prefix = self._prefix(split) or ""
        return [prefix + line.path for line in self._lines(split)]

    def _prefix(self, split: Split) -> str | None:
        """The folder to put before each path of the map, from the first existing image; None if
        none exists."""
        if split not in self._prefix_of:
            indices = (
                (prefix, line.path) for line in self._lines(split) for prefix in (f"{split}/", "")
            )
            found = (prefix for prefix, path in indices if self._size(prefix + path) is not None)
            self._prefix_of[split] = next(found, None)
        return self._prefix_of[split]

    def _size(self, path: str) -> int | None:
        """Size of an image in bytes; None if it does not exist."""
        with data_errors(self._root / path):
            try:
                return size_of_file(os.stat(f"{self._root}/{path}"), path)  # noqa: PTH116  a million calls
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _map(self, split: Split) -> Path:
        return self._root / map_name(split)

    def _lines(self, split: Split) -> tuple[Line, ...]:
        if split not in self._lines_of:
            self._lines_of[split] = _load_lines(self._map(split))
        return self._lines_of[split]

    def _labels(self, split: Split, known: Sequence[str] | None) -> list[str]:
        """The class name of each line."""
        lines = self._lines(split)
        if known is None:
            return [line.label for line in lines]
        indices = {name: name for name in known}
        names = [_class_of(line.label, known, indices) for line in lines]
        faults = [
            (line, _unknown(line.label, known))
            for line, name in zip(lines, names, strict=True)
            if name is None
        ]
        _raise(self._map(split), [f"{line.number}: {text}" for line, text in faults])
        return [name for name in names if name is not None]

    def _known_classes(self) -> tuple[str, ...] | None:
        return load_class_names(self._root / CLASSES_NAME)


def load_class_names(path: Path) -> tuple[str, ...] | None:
    """The lines of classes.txt, in the order of labels; None if the file does not exist."""
    text = load_text_if_there(path)
    return None if text is None else parse_class_names(text, str(path))


def parse_class_names(text: str, location: str) -> tuple[str, ...]:
    names = [line.strip() for line in text.splitlines()]
    while names and not names[-1]:
        names.pop()
    faults: list[str] = []
    seen: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            faults.append(f"{number}: empty line among the class names")
        elif name in seen:
            faults.append(f"{number}: duplicate class {name!r}, first in line {seen[name]}")
        seen.setdefault(name, number)
    _raise(location, faults)
    return tuple(names)


def _load_lines(path: Path) -> tuple[Line, ...]:
    text = load_text_if_there(path)
    if text is None:
        raise DataError(
            f"{path}: missing; write one line `path<TAB>label` for each image of the split"
        )
    lines: list[Line] = []
    faults: list[str] = []
    first_of: dict[str, int] = {}
    for number, written in enumerate(text.splitlines(), 1):
        if not written.strip():
            continue
        line = _parse(number, written)
        fault = _fault(line, written, first_of)
        if fault is not None:
            faults.append(f"{number}: {fault}")
        first_of.setdefault(line.path, number)
        lines.append(line)
    _raise(path, faults)
    if not lines:
        raise DataError(f"{path}: lists no images; write a line `path<TAB>label` for each")
    return tuple(lines)


def _parse(number: int, written: str) -> Line:
    if "\t" in written:
        path, _, label = written.partition("\t")
        return Line(number, path.strip(), label.strip())
    path, _, label = written.strip().rpartition(" ")
    return Line(number, path.strip(), label)


def _fault(line: Line, written: str, first_of: Mapping[str, int]) -> str | None:
    if not line.path or not line.label:
        return f"{written.strip()!r} has no label; write `path<TAB>label`"
    if line.path in first_of:
        return f"duplicate path {line.path}, first in line {first_of[line.path]}"
    if line.path.startswith("/") or ".." in line.path.split("/"):
        return f"{line.path} is not a path below the data folder"
    return None


def _class_of(label: str, known: Sequence[str], names: Mapping[str, str]) -> str | None:
    if label in names:
        return label
    if label.isdecimal() and int(label) < len(known):
        return known[int(label)]
    return None


def _unknown(label: str, known: Sequence[str]) -> str:
    if _NUMBER.fullmatch(label):
        return f"label {label} is out of range: {CLASSES_NAME} has classes 0 to {len(known) - 1}"
    return f"class {label!r} is not in {CLASSES_NAME}"


def _raise(path: Path | str, faults: Sequence[str]) -> None:
    if not faults:
        return
    shown = [f"{path}:{fault}" for fault in faults[:NUM_NAMED]]
    more = [f"and {len(faults) - NUM_NAMED} more"] if len(faults) > NUM_NAMED else []
    raise DataError("\n".join(shown + more))
