"""The S3 client for the store and for data: timeouts, retries and transfers.

Credentials, endpoint, certificates, profile and proxies come only from AWS's standard settings and
are never shown. boto3 is imported only when it is used, because the import takes half a second.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakSet

from orchestrator.s3.encryption import encrypt_writes
from orchestrator.s3.failures import (
    ALLOW_HTTP,
    EndpointError,
    SettingsError,
    UnencryptedError,
    without_secrets_of_urls,
)
from orchestrator.s3.offer import adopt_offer

MAX_ATTEMPTS = 5
"""Attempts at a request, with waits of up to 1, 2, 4 and 8 s between them."""
MAX_SILENCES = 3
"""Attempts at a request that the server does not answer at all."""
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 10.0
"""The limit between two parts of an answer. After a longer silence the request is repeated."""
UPLOAD_READ_TIMEOUT_S = 60.0
"""The same for uploads: on a slow network, the answer comes long after the last byte was sent."""
LOG_EVERY_S = 5.0
"""Minimum time between two log lines: many threads notice the same outage."""

_PART_BYTES = 2**24
_CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")

_log = logging.getLogger(__name__)
_resolved: WeakSet[Any] = WeakSet()
"""The credentials of the clients of this process, as botocore's objects that renew themselves. A
client keeps its own."""
_resolving = threading.Lock()
"""Held while the set changes or is read: stages run in threads."""


def new_client(*, max_connections: int, read_timeout_s: float) -> Any:
    """Return a client for `max_connections` threads. Raises the errors that `failures.errors`
    lists."""
    import boto3  # noqa: PLC0415
    import botocore.session  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    offered_style = adopt_offer(os.environ)
    try:
        session = botocore.session.get_session()
        # These defaults also apply to the clients that fetch credentials.
        session.set_default_client_config(
            Config(
                retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
                # It also limits the wait for the kernel to accept the next bytes of a request.
                connect_timeout=max(CONNECT_TIMEOUT_S, read_timeout_s),
                read_timeout=read_timeout_s,
                max_pool_connections=max_connections,
                **_checksum_settings(session),
                **_addressing(session, offered_style),
            )
        )
        session.register("needs-retry", _RetryPolicy())
        client = boto3.session.Session(botocore_session=session).client("s3")
        if not _is_private(client.meta.endpoint_url) and os.environ.get(ALLOW_HTTP) != "1":
            raise UnencryptedError(client.meta.endpoint_url)
        encrypt_writes(client, os.environ)
        # Here and not at the first request, so that a missing file or program is reported as a
        # wrong setting.
        credentials = session.get_credentials()
        if credentials is not None:
            credentials.get_frozen_credentials()
            with _resolving:
                _resolved.add(credentials)
    except BotoCoreError:
        raise
    except json.JSONDecodeError:  # its text may contain what the program printed
        raise SettingsError(
            "the program that credential_process names did not print JSON"
        ) from None
    except ValueError as err:
        if str(err).startswith("Invalid endpoint"):  # its text has the URL, perhaps with a secret
            raise EndpointError from None
        raise SettingsError(str(err)) from err
    except OSError as err:
        raise SettingsError(f"{err.filename}: {err.strerror}") from err
    except (AttributeError, TypeError) as err:  # such as `s3 = path` instead of a section
        raise SettingsError(f"~/.aws/config has a value of the wrong type: {err}") from err
    return client


def _is_private(url: str) -> bool:
    """Whether nobody else can read the requests to `url`: it uses TLS, or is on this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def known_secrets() -> frozenset[str]:
    """Return the access keys, secret keys and tokens that clients of this process use now."""
    with _resolving:
        resolved = tuple(_resolved)
    return frozenset(secret for credentials in resolved for secret in _parts_of(credentials))


def _parts_of(credentials: Any) -> list[str]:
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    try:
        frozen = credentials.get_frozen_credentials()
    except (BotoCoreError, OSError, ValueError):  # they cannot be renewed: the client reports it
        return []
    return [part for part in (frozen.access_key, frozen.secret_key, frozen.token) if part]


class Validity(NamedTuple):
    """How long the credentials of this process are valid."""

    source: str
    """Where AWS's standard chain found them, such as `env` or `sso`."""
    is_temporary: bool
    is_renewed: bool
    """Whether botocore fetches new ones before they expire."""
    ends_at_s: float | None
    """Seconds since the epoch. None if that is unknown."""


def credential_validity() -> Validity | None:
    """Return how long the credentials of this process are valid. None if it has none, or if they
    cannot be fetched: the client reports that."""
    import botocore.session  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    try:
        credentials = botocore.session.get_session().get_credentials()
        frozen = credentials and credentials.get_frozen_credentials()
    except (BotoCoreError, OSError, ValueError):
        return None
    if credentials is None:
        return None
    end = getattr(credentials, "_expiry_time", None)  # botocore has no public name for it
    # Those in the environment are read again before they expire, and are then the same.
    is_renewed = end is not None and credentials.method != "env"
    ends_at_s = None if end is None else end.timestamp()
    return Validity(credentials.method, bool(frozen.token), is_renewed, ends_at_s)


def _checksum_settings(session: Any) -> dict[str, str]:
    """Use botocore's checksums only where S3 requires them, unless the user sets it otherwise.

    Servers such as older MinIO and Ceph refuse the trailers in which botocore sends checksums. Some
    answer a part of an object with the checksum of the whole. The orchestrator checks the sha256 of
    everything that it reads.
    """
    stated = session.get_scoped_config()
    return {
        name: "when_required"
        for name in _CHECKSUMS
        if name not in stated and f"AWS_{name.upper()}" not in os.environ
    }


def _addressing(session: Any, offered_style: str | None) -> dict[str, Any]:
    """The driver's addressing style, unless this machine has S3 settings. AWS has no variable for
    it."""
    is_stated = "s3" in session.get_scoped_config()
    return {} if is_stated or not offered_style else {"s3": {"addressing_style": offered_style}}


class _RetryPolicy:
    """Logs retries of requests, and gives up on a server that does not answer."""

    def __init__(self) -> None:
        self._logged_at_s = float("-inf")

    def __call__(self, *, attempts: int, caught_exception: Exception | None, **event: Any) -> None:
        """Handle botocore's event `needs-retry`. An exception raised here ends the request."""
        from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError  # noqa: PLC0415

        is_silent = isinstance(caught_exception, (ConnectTimeoutError, ReadTimeoutError))
        most = min(MAX_SILENCES, MAX_ATTEMPTS) if is_silent else MAX_ATTEMPTS
        if is_silent and attempts >= most:
            assert caught_exception is not None
            raise caught_exception
        has_failed = caught_exception is not None or event["response"][0].status_code >= 500  # noqa: PLR2004
        # A single lost request needs no report; the second in a row does.
        if attempts < most and (is_silent or (has_failed and attempts > 1)):
            self._log_retry(
                "does not answer" if caught_exception else "fails",
                event["endpoint"].host,
                attempts,
                most,
            )

    def _log_retry(self, what: str, url: str, attempts: int, most: int) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_at_s < LOG_EVERY_S:
            return
        self._logged_at_s = now_s
        _log.warning(
            "the server %s %s; trying again (%d of %d)",
            without_secrets_of_urls(url),
            what,
            attempts + 1,
            most,
        )


def read_object(client: Any, **request: str) -> bytes:
    """Return the bytes of an object. boto3 repeats a failed request, but not a download that breaks
    off; this does."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError  # noqa: PLC0415

    for attempt in range(1, MAX_ATTEMPTS + 1):
        body = client.get_object(**request)["Body"]
        try:
            content: bytes = body.read()
        except (HTTPClientError, IncompleteReadError):
            if attempt == MAX_ATTEMPTS:
                raise
        else:
            return content
    raise AssertionError("the last attempt returns or raises")


def transfers(*, num_threads: int) -> Any:
    """Return the settings of classic transfers. The CRT client ignores a custom endpoint and would
    connect to AWS."""
    from boto3.s3.transfer import TransferConfig  # noqa: PLC0415

    return TransferConfig(
        multipart_threshold=_PART_BYTES,
        multipart_chunksize=_PART_BYTES,
        max_concurrency=num_threads,
        preferred_transfer_client="classic",
    )
