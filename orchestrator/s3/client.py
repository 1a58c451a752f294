"""What the store and data in S3 have in common: the client, its patience, and transfers.

Credentials, endpoint, certificates, profile and proxies come from AWS's standard places only; none
of them is shown. boto3 takes half a second to import, for which only those pay who use it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any

from orchestrator.s3.failures import EndpointError, SettingsError, without_userinfo
from orchestrator.s3.offer import adopt_offer

MAX_ATTEMPTS = 5
"""Tries at a request, with waits of up to 1, 2, 4 and 8 s between them."""
MAX_SILENCES = 3
"""Tries at a request that the server does not answer at all."""
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 10.0
"""Between two parts of an answer. A server that is silent for longer is asked again."""
UPLOAD_READ_TIMEOUT_S = 60.0
"""For uploads: on a slow network the answer comes long after the last byte was handed to it."""
LOG_EVERY_S = 5.0
"""Many threads meet the same outage; one line reports it."""

_PART_BYTES = 2**24
_CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")

_log = logging.getLogger(__name__)


def new_client(*, max_connections: int, read_timeout_s: float) -> Any:
    """A client for so many threads. Raises what `s3_failures.errors` lists."""
    import boto3  # noqa: PLC0415
    import botocore.session  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    offered_style = adopt_offer(os.environ)
    try:
        session = botocore.session.get_session()
        # The defaults hold for the clients that fetch credentials, too.
        session.set_default_client_config(
            Config(
                retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
                # It also bounds the wait for the kernel to take the next bytes of a request.
                connect_timeout=max(CONNECT_TIMEOUT_S, read_timeout_s),
                read_timeout=read_timeout_s,
                max_pool_connections=max_connections,
                **_checksum_settings(session),
                **_addressing(session, offered_style),
            )
        )
        session.register("needs-retry", _RetryPolicy())
        client = boto3.session.Session(botocore_session=session).client("s3")
        # Now and not at the first request, so that a file or program that is missing is known as a
        # setting.
        credentials = session.get_credentials()
        if credentials is not None:
            credentials.get_frozen_credentials()
    except BotoCoreError:
        raise
    except json.JSONDecodeError:  # its text may hold what the program printed
        raise SettingsError(
            "the program that credential_process names did not print JSON"
        ) from None
    except ValueError as err:
        if str(err).startswith("Invalid endpoint"):  # its text has the URL, which may hold a secret
            raise EndpointError from None
        raise SettingsError(str(err)) from err
    except OSError as err:
        raise SettingsError(f"{err.filename}: {err.strerror}") from err
    except (AttributeError, TypeError) as err:  # such as `s3 = path`, where a section has to be
        raise SettingsError(f"~/.aws/config has a value where it needs another: {err}") from err
    return client


def _checksum_settings(session: Any) -> dict[str, str]:
    """Checksums of botocore only where S3 demands them, unless the user states it otherwise.

    Servers such as older MinIO and Ceph refuse the trailers in which botocore sends them, and some
    answer a part of an object with the checksum of the whole. Everything read has a sha256 of ours.
    """
    stated = session.get_scoped_config()
    return {
        name: "when_required"
        for name in _CHECKSUMS
        if name not in stated and f"AWS_{name.upper()}" not in os.environ
    }


def _addressing(session: Any, offered_style: str | None) -> dict[str, Any]:
    """The driver's addressing style, for which AWS has no variable, where this machine states
    none."""
    is_stated = "s3" in session.get_scoped_config()
    return {} if is_stated or not offered_style else {"s3": {"addressing_style": offered_style}}


class _RetryPolicy:
    """Logs that a request is tried again, and gives up on a server that stays silent."""

    def __init__(self) -> None:
        self._logged_at_s = float("-inf")

    def __call__(self, *, attempts: int, caught_exception: Exception | None, **event: Any) -> None:
        """See botocore's event `needs-retry`: what is raised here ends the request."""
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
            without_userinfo(url),
            what,
            attempts + 1,
            most,
        )


def read_object(client: Any, **request: str) -> bytes:
    """The bytes that `get_object` answers; boto3 asks again for an answer, but not for the rest of
    one."""
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
    """Settings of classic transfers: the CRT client ignores a custom endpoint and would talk to AWS
    itself."""
    from boto3.s3.transfer import TransferConfig  # noqa: PLC0415

    return TransferConfig(
        multipart_threshold=_PART_BYTES,
        multipart_chunksize=_PART_BYTES,
        max_concurrency=num_threads,
        preferred_transfer_client="classic",
    )
