"""Recognise text that looks like a credential: keys, tokens, passwords in URLs, presigned URLs.

No text of this module shows a credential itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class Shape(NamedTuple):
    """A credential that is recognised wherever it occurs."""

    what: str
    """Such as `a GitHub token`."""
    signs: tuple[str, ...]
    """In lower case; text without any of them has no such credential. Looking for them is a hundred
    times faster than looking for the pattern."""
    pattern: str


PRESIGNED = Shape(
    "a presigned URL",
    ("signature=", "credential=", "security-token=", "awsaccesskeyid=", "sig="),
    r"(?i:[?&](?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature"
    r"|sig)=)[A-Za-z0-9%/+=_.-]{8,}",
)
SHAPES = (
    Shape(
        "an AWS access key id",
        ("akia", "asia"),
        r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    ),
    Shape(
        "a private key",
        ("private key",),
        r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----",
    ),
    Shape("a URL with a password", ("://",), r"(?<=://)[^\s/?#:@\"'`]*:[^\s/?#@\"'`]+@"),
    PRESIGNED,
    Shape(
        "a GitHub token",
        ("ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_"),
        r"(?<![A-Za-z0-9_])(?:gh[opsur]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})",
    ),
    Shape("a GitLab token", ("glpat-",), r"(?<![A-Za-z0-9_-])glpat-[A-Za-z0-9_-]{20,}"),
    Shape(
        "a Slack token",
        ("xox", "xapp-"),
        r"(?<![A-Za-z0-9_-])(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,}",
    ),
    Shape(
        "the URL of a Slack webhook",
        ("hooks.slack.com/",),
        r"https://hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/]{8,}",
    ),
    Shape("a Hugging Face token", ("hf_",), r"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{30,}"),
    Shape(
        "a Google API key",
        ("aiza",),
        r"(?<![A-Za-z0-9_])AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])",
    ),
    Shape(
        "a signed token",
        ("eyj",),
        r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    ),
)

_SECRET_WORD = re.compile(
    r"secret|token(?!iz)|passw(?:or)?d|credential|(?<![a-z])key(?![a-z])", re.IGNORECASE
)
"""A word next to which 40 characters are taken for a secret key of AWS."""
_SECRET_KEY = re.compile(r"(?<![\w/+.-])[A-Za-z0-9+][A-Za-z0-9/+]{39}(?![\w/+=.-])", re.ASCII)
_ASSIGNED = re.compile(
    r"(?:secret|token|passw(?:or)?d|credential|(?:access|account|api|auth|private)[_-]?key)"
    r"[\w-]{0,40}[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?P<value>[A-Za-z0-9+=]{32,})(?![\w/+=.-])",
    re.ASCII | re.IGNORECASE,
)
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}|[0-9A-F]{64}")


class Credential(NamedTuple):
    """Where text has something that looks like a credential. Line and column count from 0."""

    what: str
    """Such as `a GitHub token`."""
    line: int
    column: int


def find_credentials(text: str) -> list[Credential]:
    """Return what looks like a credential in `text`, at most one for each line.

    A sha256 is not taken for one, nor is the id or ARN of a key.
    """
    lines = text.splitlines()
    found: list[Credential] = []
    for number, line in enumerate(lines):
        before = lines[number - 1] if number else ""
        first = next(_credentials_in(line, before), None)
        if first is not None:
            found.append(Credential(first[0], number, first[1]))
    return found


def without_signatures(text: str) -> str:
    """Return `text` without what gives the right to use its presigned URLs."""
    return re.sub(PRESIGNED.pattern, "?***", text) if _has_sign(text.lower(), PRESIGNED) else text


def _credentials_in(line: str, before: str) -> Iterator[tuple[str, int]]:
    """Yield the names and columns of credentials. The word that names a secret may be in the line
    `before`, as in a list of environment variables."""
    lower = line.lower()
    for shape in SHAPES:
        shaped = re.search(shape.pattern, line) if _has_sign(lower, shape) else None
        if shaped is not None:
            yield shape.what, shaped.start()
    if _SECRET_WORD.search(line) or _SECRET_WORD.search(before):
        for match in _SECRET_KEY.finditer(line):
            if _is_mixed(match[0], needs_both_cases=True):
                yield "a secret key", match.start()
    for match in _ASSIGNED.finditer(line):
        value = match["value"]
        if _is_mixed(value, needs_both_cases=False) and not _HEX_DIGEST.fullmatch(value):
            yield "a secret", match.start("value")


def _has_sign(lower: str, shape: Shape) -> bool:
    return any(sign in lower for sign in shape.signs)


def _is_mixed(value: str, *, needs_both_cases: bool) -> bool:
    """Whether a value has digits and letters, as random characters do and words do not."""
    has_digit = any(char.isdigit() for char in value)
    has_upper = any(char.isupper() for char in value)
    has_lower = any(char.islower() for char in value)
    has_letters = (has_upper and has_lower) if needs_both_cases else (has_upper or has_lower)
    return has_digit and has_letters
