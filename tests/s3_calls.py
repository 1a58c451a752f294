"""Requests to S3 -> the rights that they need, and whether a policy of IAM grants them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit


class Right(NamedTuple):
    """What a request needs: an action on an object, or on a bucket below a prefix."""

    action: str
    resource: str
    prefix: str | None = None


def rights_of(method: str, path: str, headers: Mapping[str, str]) -> Iterator[Right]:
    """Yield the rights that a request with the bucket in its path needs. Raises AssertionError for
    an operation that this table lacks."""
    parts = urlsplit(path)
    query = parse_qs(parts.query, keep_blank_values=True)
    bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
    resource = f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}"
    if method == "POST" and "delete" in query:
        return  # as DELETE of the objects in its content, which the recorder does not keep
    source = {name.lower(): value for name, value in headers.items()}.get("x-amz-copy-source")
    if source:
        yield Right("s3:GetObject", f"arn:aws:s3:::{unquote(source).lstrip('/')}")
    yield Right(_action(method, query, is_object=bool(key)), resource, _prefix(query, bool(key)))


def _prefix(query: Mapping[str, list[str]], is_object: bool) -> str | None:
    return None if is_object else query.get("prefix", [""])[0]


def _action(method: str, query: Mapping[str, Any], *, is_object: bool) -> str:
    if not is_object:
        listings = {"list-type": "s3:ListBucket", "uploads": "s3:ListBucketMultipartUploads"}
        assert method == "GET", (method, query)
        return next(action for name, action in listings.items() if name in query)
    if "uploadId" in query and method in ("GET", "DELETE"):
        return {"GET": "s3:ListMultipartUploadParts", "DELETE": "s3:AbortMultipartUpload"}[method]
    assert not {"acl", "tagging", "retention", "delete"} & query.keys(), query
    return {
        "GET": "s3:GetObject",
        "HEAD": "s3:GetObject",
        "PUT": "s3:PutObject",
        "POST": "s3:PutObject",  # the begin and the end of a multipart upload
        "DELETE": "s3:DeleteObject",
    }[method]


class Policy:
    """The policy of one role, which counts what it grants."""

    def __init__(self, document: Mapping[str, Any], names: Mapping[str, str]) -> None:
        """`names` replace the words in capitals of `document`."""
        text = json.dumps(document)
        for word in sorted(names, key=len, reverse=True):  # DATA_BUCKET before BUCKET
            text = text.replace(word, names[word])
        self._statements: list[dict[str, Any]] = json.loads(text)["Statement"]
        self.used: set[tuple[str, str]] = set()
        """The statements and actions that have granted something."""

    @property
    def granted(self) -> set[tuple[str, str]]:
        """All statements and their actions."""
        return {(one["Sid"], action) for one in self._statements for action in _actions(one)}

    def allows(self, right: Right) -> bool:
        grants = {
            (one["Sid"], right.action) for one in self._statements if _statement_allows(one, right)
        }
        self.used |= grants
        return bool(grants)


def _actions(statement: Mapping[str, Any]) -> list[str]:
    actions = statement["Action"]
    return [actions] if isinstance(actions, str) else actions


def _statement_allows(statement: Mapping[str, Any], right: Right) -> bool:
    assert statement["Effect"] == "Allow"
    if right.action not in _actions(statement):
        return False
    if not fnmatchcase(right.resource, statement["Resource"]):
        return False
    condition = statement.get("Condition")
    if condition is None:
        return True
    return fnmatchcase(right.prefix or "", condition["StringLike"]["s3:prefix"])
