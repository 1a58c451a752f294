"""Who may see the live page: hosts that a browser may name, and the token.

A page at 127.0.0.1 is guarded against DNS rebinding: a foreign site may resolve its own name to
127.0.0.1, but then the browser sends that name in `Host`.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.errors import JobError

MIN_TOKEN = 16
TOKEN_VARIABLE = "ORCHESTRATOR_TOKEN"


@dataclass(frozen=True)
class Access:
    """What a request needs to be answered."""

    is_local: bool
    """Whether the page is only for this machine, so that `Host` must name it."""
    token: str | None

    @property
    def cookie(self) -> str:
        """What a browser keeps instead of the token. It outlives a restart of the server."""
        return hmac.new(_bytes(self.token), b"cookie of the live page", hashlib.sha256).hexdigest()

    def allows_host(self, host: str) -> bool:
        """Whether `host`, as a request names it, is this server."""
        if not self.is_local:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return is_loopback(name)

    def allows(self, *, authorization: str | None, cookie: str | None) -> bool:
        """Whether the header `Authorization` or the cookie proves that the token is known."""
        if self.token is None:
            return True
        scheme, _, bearer = (authorization or "").partition(" ")
        has_token = scheme.lower() == "bearer" and self.is_token(bearer.strip())
        return has_token or hmac.compare_digest(_bytes(cookie), _bytes(self.cookie))

    def is_token(self, text: str) -> bool:
        """Whether `text` is the token. Takes as long for each wrong text of one length."""
        return hmac.compare_digest(_bytes(text), _bytes(self.token))


def _bytes(text: str | None) -> bytes:
    return (text or "").encode("utf-8", "surrogateescape")


def make_access(host: str, *, token_file: Path | None, token: str | None) -> Access:
    """Who may see a page at the address `host`. `token` is the environment's, where an empty one
    is none; a file's is preferred.

    Raises JobError without a good token, if one is needed.
    """
    source, found = TOKEN_VARIABLE, token or None
    if token_file is not None:
        source, found = f"--token-file {token_file}", _read_token(token_file)
    if found is None and not is_loopback(host):
        raise JobError(
            f"--host {host}: other machines can reach this address, so the page needs a token of "
            f"at least {MIN_TOKEN} characters; set {TOKEN_VARIABLE} or give --token-file"
        )
    if found is not None and len(found) < MIN_TOKEN:
        raise JobError(
            f"{source}: the token has {len(found)} characters, and needs at least {MIN_TOKEN}; "
            "`openssl rand -hex 32` makes one"
        )
    return Access(is_local=is_loopback(host), token=found)


def _read_token(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as err:
        why = err.strerror if isinstance(err, OSError) else "not UTF-8 text"
        raise JobError(f"--token-file {path}: cannot be read: {why}") from err


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
