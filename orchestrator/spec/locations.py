"""Folders and stores as a job names them -> absolute locations. Nothing is looked up."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.spec.faults import cut, shown

_OF_PACKAGE = re.compile(r"[a-z]+::")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9._=+-]+(/[A-Za-z0-9._=+-]+)*")
_UNEXPANDED = re.compile(
    r"^(?:file:/*)?(?P<home>~[^/]*)"
    r"|\$(?:[A-Za-z_]\w*|\{[^}]*\}?|\([^)]*\)?)|`[^`]*`?"
    # in a percent-encoded name, as of a URI, two hexadecimal digits follow each %
    r"|%[A-Za-z_]\w*%(?![0-9A-Fa-f]{2})",
    re.ASCII,
)
"""What a shell would put something else for; a lone $, as in `share$/images`, is part of a name."""


def data_location(text: str, base_dir: Path | None) -> str:
    """The absolute folder of a data set, its `s3://BUCKET/PREFIX`, or `sample:NAME`, which kinds
    make where needed.

    `file:///...` is a folder whose name holds what a shell would expand. `PACKAGE::PATH` is a file
    of an installed package. ValueError for any other location.
    """
    if text.startswith("sample:"):
        return text
    if _OF_PACKAGE.match(text):
        refuse_unexpanded(text)
        return text
    is_uri = text.startswith(("s3://", "file://"))
    return store_uri(text, base_dir) if is_uri else absolute_folder(text, base_dir)


def refuse_unexpanded(text: str) -> None:
    """Raises ValueError for `~`, `$NAME`, `%NAME%` and the like, which would become names of
    folders.

    Nothing expands them: a job says the same on each machine and for each user.
    """
    found = _UNEXPANDED.search(text)
    if found is not None:
        what = found["home"] or found[0]
        raise ValueError(f"{cut(what)} is not expanded here: write the path out, not {shown(text)}")


def absolute_folder(text: str, base_dir: Path | None) -> str:
    """`text` against `base_dir`, without `..`; ValueError for what is no folder of this machine.

    Without a `base_dir` the current folder will not last: `text` has to be absolute.
    """
    if not text:
        raise ValueError("must not be empty")
    if _SCHEME.match(text):
        raise ValueError(f"must be a folder, not {shown(text)}")
    refuse_unexpanded(text)
    if base_dir is None and not Path(text).is_absolute():
        raise ValueError(
            f"must be absolute, not {shown(text)}: in a Ray job the current folder is a copy that "
            "vanishes with it; "
            "name a folder that all machines share; a store and images may also be "
            "s3://BUCKET/PREFIX, data sample:NAME"
        )
    return os.path.normpath((base_dir or Path("/")) / text)


def outside_file(text: str, base_dir: Path | None) -> str:
    """The absolute path of a file, or its `s3://BUCKET/PREFIX/NAME`; ValueError for any other
    place."""
    if not _SCHEME.match(text):
        return absolute_folder(text, base_dir)
    if text.startswith("file://"):
        return store_uri(text, base_dir)
    if not text.startswith("s3://") or text.rstrip("/").count("/") < 3:  # noqa: PLR2004  two of the scheme's
        raise ValueError(
            f"a file from outside the job is a path or s3://BUCKET/PREFIX/NAME, not {shown(text)}"
        )
    return store_uri(text, base_dir)


def store_uri(text: str, base_dir: Path | None) -> str:
    """The absolute folder of a store given as a path or `file:///...`, or its `s3://BUCKET/PREFIX`.

    ValueError for any other store.
    """
    scheme = _SCHEME.match(text)
    if scheme is None:
        return absolute_folder(text, base_dir)
    location = text[len(scheme[0]) :]
    match scheme[1].lower():
        case "file":
            return _file_uri(text, location)
        case "s3":
            return _s3_uri(text, location.rstrip("/"))
    raise ValueError(
        f"unknown kind of store {scheme[0]!r}; known: a folder, file:///ABSOLUTE/PATH, "
        "s3://BUCKET/PREFIX"
    )


def _file_uri(text: str, location: str) -> str:
    refuse_unexpanded(text)
    path = unquote(urlsplit(text).path)
    if not location.startswith("/") or "\0" in path:
        raise ValueError(f"must be file:///ABSOLUTE/PATH, not {shown(text)}")
    return os.path.normpath(path)


def _s3_uri(text: str, location: str) -> str:
    bucket, slash, prefix = location.partition("/")
    if "@" in bucket:  # not shown: what stands before the @ may be a secret
        raise ValueError(
            "must be s3://BUCKET/PREFIX; credentials come from AWS's standard chain, never from a "
            "job"
        )
    refuse_unexpanded(text)
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(
            "must be s3://BUCKET/PREFIX with a bucket of 3 to 63 a-z, 0-9, '.' and '-', not "
            f"{shown(text)}"
        )
    if slash and not (_PREFIX.fullmatch(prefix) and {".", ".."}.isdisjoint(prefix.split("/"))):
        raise ValueError(
            f"the prefix of s3://BUCKET/PREFIX must be plain names split by '/', not {shown(text)}"
        )
    return f"s3://{location}"
