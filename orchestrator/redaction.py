"""Replace secrets in text by `***`: values of environment variables, users in URLs, and what looks
like a credential."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from urllib.parse import quote

from orchestrator.credentials import SHAPES
from orchestrator.s3.client import known_secrets

MIN_CHARACTERS = 8
"""Shorter values are not replaced: words such as `true` would disappear from every line."""
MARK = b"***"

_SECRET_NAME = re.compile(
    r"SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|PRIVATE|WEBHOOK|AUTHORIZATION"
    r"|(^|_)(PAT|AUTH|SAS)(_|$)|(^|_)(PASS|PWD|DSN|COOKIE)$|KEY$|KEY_ID$",
    re.IGNORECASE,
)
"""Names of environment variables whose values are secrets. PWD itself is the current folder."""
_POINTER_NAME = re.compile(
    r"(_|^)(FILES?|PATH|DIR|FOLDER|SOCK|HOST|MODE|EXPIRATION)$"
    r"|^(?!.*(SECRET|TOKEN|WEBHOOK)).*(_|^)URI$",
    re.IGNORECASE,
)
"""Names such as AWS_SHARED_CREDENTIALS_FILE: the value is not a secret itself. The URI of a webhook
is one."""
_USERINFO = re.compile(r"//([^/?#\s\"'`@]*)@")
_CREDENTIALS = (
    (
        (b"private key",),
        re.compile(
            rb"-----BEGIN (?P<kind>[A-Z0-9 ]{,30}PRIVATE KEY[A-Z ]{,6})-----"
            rb".{,8000}?-----END (?P=kind)-----",
            re.DOTALL,
        ),
    ),
    # The header in which botocore sends it, in its debug log.
    ((b"signature=",), re.compile(rb"(?<=Signature=)[0-9a-f]{64}")),
    *(
        (tuple(sign.encode() for sign in shape.signs), re.compile(shape.pattern.encode()))
        for shape in SHAPES
    ),
)
"""The patterns of credentials, each with signs in lower case of which a text has one or more."""
_USERINFO_IN_TEXT = re.compile(rb"(?<=://)[^/?#\s\"'`@]+@")


def secrets_of(environ: Mapping[str, str], names: Collection[str] = ()) -> frozenset[str]:
    """Return the secret values in `environ`, and the users of the URLs in all values. `names` are
    further variables with secrets."""
    named = {value for name, value in environ.items() if name in names or _is_secret_name(name)}
    users = {user for value in environ.values() for user in _USERINFO.findall(value)}
    passwords = {user.partition(":")[2] for user in users}
    return frozenset(word for text in named | users | passwords for word in _forms(text))


def _is_secret_name(name: str) -> bool:
    if name.upper() == "PWD":
        return False
    return bool(_SECRET_NAME.search(name)) and not _POINTER_NAME.search(name)


def secret_forms(values: Iterable[str]) -> frozenset[str]:
    """Return the forms in which programs print these secrets."""
    return frozenset(form for value in values for form in _forms(value))


def _forms(value: str) -> set[str]:
    """The value, each of its lines, and both as written in a URL and in JSON."""
    lines = {line.strip() for line in (value, *value.splitlines())}
    # A value that is not UTF-8 has surrogates in Python.
    forms = lines | {quote(line, safe="", errors="surrogateescape") for line in lines}
    forms |= {json.dumps(line)[1:-1] for line in lines}
    return {form for form in forms if len(form) >= MIN_CHARACTERS and "\n" not in form}


class Redactor:
    """Replaces a fixed set of secrets, and what looks like a credential, in bytes."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # The longest first: a secret may be a part of another one.
        self._secrets = sorted(
            (secret.encode(errors="surrogateescape") for secret in secrets), key=len, reverse=True
        )

    def redacted(self, text: bytes) -> bytes:
        for secret in self._secrets:
            text = text.replace(secret, MARK)
        return _without_credentials(_USERINFO_IN_TEXT.sub(MARK + b"@", text))

    def redacted_text(self, text: str) -> str:
        return self.redacted(text.encode(errors="backslashreplace")).decode(errors="replace")

    def cut(self, text: bytes, at: int) -> int:
        """Return the end of a first part of `text` of about `at` bytes that splits no secret."""
        for secret in self._secrets:
            found = text.find(secret, max(0, at - len(secret) + 1), at + len(secret) - 1)
            if found != -1:
                return self.cut(text, found) if found else len(secret)
        return at

    @property
    def longest(self) -> int:
        return len(self._secrets[0]) if self._secrets else 0


def redactor(environ: Mapping[str, str], names: Collection[str] = ()) -> Redactor:
    """Return the redactor for what this process writes: it replaces the secrets of `environ`, see
    `secrets_of`, and the credentials that its S3 clients use now."""
    return Redactor(secrets_of(environ, names) | secret_forms(known_secrets()))


def _without_credentials(text: bytes) -> bytes:
    lower = text.lower()
    for signs, pattern in _CREDENTIALS:
        if any(sign in lower for sign in signs):
            text = pattern.sub(MARK, text)
    return text
