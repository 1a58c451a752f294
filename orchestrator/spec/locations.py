"""Turn folders and stores as written in a job into absolute locations. Nothing is looked up."""

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
    # in a percent-encoded name, as in a URI, two hexadecimal digits follow each %
    r"|%[A-Za-z_]\w*%(?![0-9A-Fa-f]{2})",
    re.ASCII,
)
"""What a shell would expand. A single $, as in `share$/images`, is part of a name."""


def data_location(text: str, base_dir: Path | None) -> str:
    """Return the location of a data set: an absolute folder, `s3://BUCKET/PREFIX`, or
    `sample:NAME`, which the kinds create when needed.

    `file:///...` allows a folder whose name a shell would expand. `PACKAGE::PATH` is a file of an
    installed package. Raises ValueError for any other location.
    """
    if text.startswith("sample:"):
        return text
    if _OF_PACKAGE.match(text):
        refuse_unexpanded(text)
        return text
    is_uri = text.startswith(("s3://", "file://"))
    return store_uri(text, base_dir) if is_uri else absolute_folder(text, base_dir)


def refuse_unexpanded(text: str) -> None:
    """Raise ValueError for `~`, `$NAME`, `%NAME%` and similar.

    They are never expanded, so that a job means the same on each machine and for each user.
    Without this check they would become folder names.
    """
    found = _UNEXPANDED.search(text)
    if found is not None:
        what = found["home"] or found[0]
        raise ValueError(f"{cut(what)} is not expanded; write the full path, not {shown(text)}")


def absolute_folder(text: str, base_dir: Path | None) -> str:
    """Resolve `text` against `base_dir` and remove `..`. Raises ValueError if `text` is not a local
    folder.

    If `base_dir` is None, the current folder is temporary and `text` must be absolute.
    """
    if not text:
        raise ValueError("must not be empty")
    if _SCHEME.match(text):
        raise ValueError(f"must be a folder, not {shown(text)}")
    refuse_unexpanded(text)
    if base_dir is None and not Path(text).is_absolute():
        raise ValueError(
            f"must be absolute, not {shown(text)}: a Ray job runs in a temporary copy of the "
            "current folder; use a folder that all machines share, s3://BUCKET/PREFIX (for a "
            "store or images) or sample:NAME (for data)"
        )
    return os.path.normpath((base_dir or Path("/")) / text)


def outside_file(text: str, base_dir: Path | None) -> str:
    """Return the absolute path of a file, or `s3://BUCKET/PREFIX/NAME`. Raises ValueError for any
    other location."""
    if not _SCHEME.match(text):
        return absolute_folder(text, base_dir)
    if text.startswith("file://"):
        return store_uri(text, base_dir)
    if not text.startswith("s3://") or text.rstrip("/").count("/") < 3:  # noqa: PLR2004  two are in s3://
        raise ValueError(
            "a file from outside the job must be a path or s3://BUCKET/PREFIX/NAME, not "
            f"{shown(text)}"
        )
    return store_uri(text, base_dir)


def store_uri(text: str, base_dir: Path | None) -> str:
    """Return the absolute folder of a store written as a path or `file:///...`, or its
    `s3://BUCKET/PREFIX`.

    Raises ValueError for any other store.
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
    if "@" in bucket:  # not shown: the text before the @ may be a secret
        raise ValueError(
            "must be s3://BUCKET/PREFIX without credentials; provide them through AWS's standard "
            "chain (environment variables, ~/.aws)"
        )
    refuse_unexpanded(text)
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(
            f"must be s3://BUCKET/PREFIX, not {shown(text)}; a bucket name has 3 to 63 characters "
            "of a-z, 0-9, '.' and '-'"
        )
    if slash and not (_PREFIX.fullmatch(prefix) and {".", ".."}.isdisjoint(prefix.split("/"))):
        raise ValueError(
            "the prefix of s3://BUCKET/PREFIX must be plain names separated by '/', not "
            f"{shown(text)}"
        )
    return f"s3://{location}"
