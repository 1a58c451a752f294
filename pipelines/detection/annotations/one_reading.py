"""Makes all readers of an annotation file agree on its content. Does not import torch.

mmdet, pycocotools and faster-coco-eval each open the file themselves. They take the text "0" for
true or for false. They look up categories by names, which must be strings. They open the file in
the encoding of the machine's locale. They count an annotation with an id of 0 or less as never
found. So if they could read a file differently than this project, they get a normalised copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

Entry = Mapping[str, Any]

_FLAGS: Mapping[object, int] = {0: 0, 1: 1, "0": 0, "1": 1}
"""The accepted flags. `false` and 0.0 are equal to 0, `true` and 1.0 to 1."""


def flag_of(value: object) -> int | None:
    """The value of a flag such as `iscrowd` or `ignore`: 0 or 1, or None if it is neither."""
    return _FLAGS.get(value) if isinstance(value, int | float | str) else None


def in_one_reading(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The document with names as strings, flags as 0 or 1, and annotation ids from 1.

    `document` must have no structure faults. Returns the same object if nothing changes.
    """
    parts = {
        "annotations": _numbered([_flagged(entry) for entry in document["annotations"]]),
        "categories": [_named(entry) for entry in document["categories"]],
    }
    is_same = all(
        ours is theirs
        for name, entries in parts.items()
        for ours, theirs in zip(entries, document[name], strict=True)
    )
    return document if is_same else {**document, **parts}


def is_plain(content: bytes) -> bool:
    """Whether the text of a JSON file is the same in the encoding of every locale."""
    return content.isascii() and b"\0" not in content[:4]  # UTF-16 and UTF-32 have zeros there


def _flagged(annotation: Entry) -> Entry:
    crowd, ignore = annotation["iscrowd"], annotation.get("ignore", 0)
    if type(crowd) is int and type(ignore) is int:
        return annotation
    return {
        **annotation,
        "iscrowd": flag_of(crowd),
        "ignore": 0 if ignore is None else flag_of(ignore),
    }


def _numbered(annotations: Sequence[Entry]) -> Sequence[Entry]:
    taken = {entry["id"] for entry in annotations}
    has_repeated = len(taken) < len(annotations)  # a fault, which must name the id as written
    if min(taken) > 0 or has_repeated:
        return annotations
    unused = (number for number in count(1) if number not in taken)
    return [entry if entry["id"] > 0 else {**entry, "id": next(unused)} for entry in annotations]


def _named(category: Entry) -> Entry:
    name = category["name"]
    return category if isinstance(name, str) else {**category, "name": str(name)}
