"""Explain errors of S3: what they mean, what to do, and whether another try can help.

No text here shows a credential, or the user and password of a URL.
"""

from __future__ import annotations

import os
import re
import socket
from typing import Any, NamedTuple

from orchestrator.credentials import without_signatures

MISSING = frozenset({"404", "NoSuchKey"})
"""Codes for an object that does not exist."""

BAD_DIGESTS = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
)
"""Codes for bytes that differ from a checksum that was sent with them."""

MAX_REASON = 400
"""Characters of a server's or a library's own message that are shown."""

_UNKNOWN_HEADER = frozenset({400, 501})
"""Status codes of a server that does not support a header."""
_SERVER_FAILED = 500
"""Status codes from here on are errors of the server."""
_USERINFO = re.compile(r"//[^/?#\s\"'`]*@")
"""The user and the password before the host in a URL."""

_ENDPOINT = "AWS_ENDPOINT_URL (or endpoint_url in ~/.aws/config)"
_REASON = re.compile(r"(?:\[Errno -?\d+\] |Tunnel connection failed: )([^()'\"]+)")
"""The reason in a library's message about a failed connection, after the names of its classes."""
_AGAIN = "run the same command again"
_RIGHTS = (
    "the credentials found by AWS's standard chain lack the permission; grant them s3:GetObject, "
    "s3:PutObject, s3:DeleteObject and s3:ListBucket (without s3:ListBucket, S3 answers "
    "AccessDenied for an object that does not exist)"
)
_EXPIRED = (
    "renew the credentials (`aws sso login`, or new AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
    f"AWS_SESSION_TOKEN) and {_AGAIN}"
)
_REGION = "set AWS_DEFAULT_REGION to the region of the bucket"
_CLOCK = "set the clock of this machine, for example by NTP"
_UNSUPPORTED = (
    "the server does not support all of S3's protocol; use a server or a version with conditional "
    "and multipart uploads"
)
_FULL = "the server is full or the bucket's quota is reached; free some space"
_BUSY = (
    f"the server is overloaded or down; {_AGAIN} later, and check that {_ENDPOINT} names an S3 "
    "server"
)
_DAMAGED = (
    f"bytes were changed or lost in transit; {_AGAIN}, and check proxies between here and the "
    "server"
)
_REFUSED = f"check the bucket's policy, and that {_ENDPOINT} names an S3 server"
_BAD_HEADER = "the credentials contain a line break or another character not allowed in a header"

_LASTING = {
    **dict.fromkeys(("403", "AccessDenied", "AllAccessDisabled", "Forbidden"), _RIGHTS),
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"), _EXPIRED),
    **dict.fromkeys(("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"), _CLOCK),
    **dict.fromkeys(("NotImplemented", "501", "MethodNotAllowed", "405"), _UNSUPPORTED),
    **dict.fromkeys(("PermanentRedirect", "TemporaryRedirect", "301", "307"), _REGION),
    **dict.fromkeys(
        ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException"), _REGION
    ),
    **dict.fromkeys(("QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "507"), _FULL),
    "400": (
        "the answer gives no reason; usually the credentials have expired (renew them) or the "
        f"bucket is in another region ({_REGION})"
    ),
    "407": (
        "set the proxy's user and password in HTTPS_PROXY or HTTP_PROXY, or add the server to "
        "NO_PROXY"
    ),
    "InvalidToken": (
        "AWS_SESSION_TOKEN does not belong to AWS_ACCESS_KEY_ID; renew the token and both keys, or "
        "unset it if the keys are permanent"
    ),
    "InvalidAccessKeyId": "the server does not know the credentials found by AWS's standard chain",
    "InvalidClientTokenId": "AWS does not know the credentials found by AWS's standard chain",
    "SignatureDoesNotMatch": (
        "the secret key found by AWS's standard chain does not match the access key"
    ),
    "InvalidBucketName": (
        "correct the bucket's name: 3 to 63 lower-case letters, digits, `-` and `.`"
    ),
    "InvalidObjectState": "the object is archived; restore it first",
}
"""What to do, by the server's code, about errors that another try would get again."""
_PASSING = {
    **dict.fromkeys(
        ("SlowDown", "ServiceUnavailable", "InternalError", "Throttling", "429"), _BUSY
    ),
    **dict.fromkeys(("RequestTimeout", "408", "IncompleteBody", "BadDigest"), _DAMAGED),
    **dict.fromkeys(("XAmzContentSHA256Mismatch", "InvalidDigest"), _DAMAGED),
    **dict.fromkeys(
        ("NoSuchUpload", "InvalidPart"), f"the server dropped an unfinished upload; {_AGAIN}"
    ),
    **dict.fromkeys(
        ("PreconditionFailed", "412"), f"the object was replaced during the request; {_AGAIN}"
    ),
    **dict.fromkeys(
        ("OperationAborted", "ConditionalRequestConflict"),
        f"another client writes to the same object; {_AGAIN}",
    ),
}
"""What to do, by the server's code, about errors after which another try may succeed."""


class SettingsError(Exception):
    """AWS's settings on this machine are invalid. The text contains no secret."""


class EndpointError(SettingsError):
    """The endpoint is not a URL. Its value is not shown because it may contain a secret."""

    def __init__(self) -> None:
        super().__init__("AWS_ENDPOINT_URL must be a URL such as https://HOST:PORT")


ALLOW_HTTP = "ORCHESTRATOR_ALLOW_HTTP"
"""The environment variable that allows an endpoint without TLS on another machine, if it is 1."""


class UnencryptedError(SettingsError):
    """The endpoint is on another machine and does not use TLS."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"{without_secrets_of_urls(url)} is not encrypted, so data could be read and changed "
            "on the network"
        )


class Failure(NamedTuple):
    """The explanation of an error of S3."""

    reason: str
    hint: str
    """What to do about it."""
    code: str
    """The server's error code; empty if it did not answer."""
    is_lasting: bool
    """Whether another try, seconds later, would get the same error."""
    behind: BaseException | None
    """The original error for tracebacks; None if it contains a secret."""

    def __str__(self) -> str:
        return f"{self.reason}; {self.hint}"


def errors() -> tuple[type[Exception], ...]:
    """The exceptions that `explain` accepts."""
    from boto3.exceptions import Boto3Error  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
    from botocore.parsers import ResponseParserError  # noqa: PLC0415
    from s3transfer.exceptions import RetriesExceededError  # noqa: PLC0415

    return (
        BotoCoreError,
        ClientError,
        Boto3Error,
        ResponseParserError,
        RetriesExceededError,
        SettingsError,
    )


def code_of(err: BaseException) -> str:
    """Return the server's error code; empty if it did not answer."""
    response = getattr(err, "response", None) or {}  # None without an answer
    return str(response.get("Error", {}).get("Code", ""))


def may_refuse_header(err: Exception) -> bool:
    """Whether the reason may be that the server does not support a header of the request."""
    response = getattr(_cause_of(err), "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in _UNKNOWN_HEADER and response["Error"].get("Code") not in BAD_DIGESTS


def refuses_whole_checksum(err: Exception) -> bool:
    """Whether the server compared the checksum of a whole object with the one that it computed from
    those of its parts. Each part was right."""
    cause = _cause_of(err)
    is_end = getattr(cause, "operation_name", None) == "CompleteMultipartUpload"
    return is_end and code_of(cause) in BAD_DIGESTS


def has_dropped_upload(err: Exception) -> bool:
    """Whether the server does not know an upload in parts, perhaps because it has ended it already
    and its answer was lost."""
    return code_of(_cause_of(err)) == "NoSuchUpload"


def without_secrets_of_urls(text: str) -> str:
    """Return `text` without the user, the password and the signature of its URLs."""
    return without_signatures(_USERINFO.sub("//", text))


def explain(err: Exception, *, no_bucket: str) -> Failure:
    """Explain an error of one of the types in `errors()`. `no_bucket` is the hint for a bucket that
    does not exist."""
    from botocore.exceptions import ClientError  # noqa: PLC0415

    cause = _cause_of(err)
    if isinstance(cause, ClientError):
        return _refusal(cause, err, no_bucket)
    text = _text_of(cause)
    shown = " ".join(without_secrets_of_urls(text).split())[:MAX_REASON].rstrip(".")
    hint, is_lasting = _advice(cause, text)
    # Otherwise the error may contain a secret.
    is_whole = str(cause) in text and text == without_secrets_of_urls(text)
    return Failure(shown, hint, "", is_lasting, behind=err if is_whole else None)


def _cause_of(err: BaseException) -> BaseException:
    """Return the error that a transfer error wraps, or `err` itself."""
    from boto3.exceptions import S3UploadFailedError  # noqa: PLC0415

    behind = (
        err.__context__
        if isinstance(err, S3UploadFailedError)
        else getattr(err, "last_exception", None)
    )
    return behind or err


def _refusal(cause: Any, err: Exception, no_bucket: str) -> Failure:
    """Explain an error that the server answered."""
    code = code_of(cause)
    answer = cause.response.get("Error", {})
    message = " ".join(without_secrets_of_urls(str(answer.get("Message") or code)).split())[
        :MAX_REASON
    ].rstrip(".")
    header = f", header {answer['Header']}" if "Header" in answer else ""
    reason = f"{message} ({code}{header})" if code not in message else f"{message}{header}"
    status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    hint = {**_LASTING, **_PASSING, "NoSuchBucket": no_bucket}.get(code)
    if hint is None:
        hint = _BUSY if status >= _SERVER_FAILED else _REFUSED
    if hint == _REGION:
        hint = _region_hint(cause.response)
    if hint == _RIGHTS and cause.operation_name.startswith("AssumeRole"):
        hint = (
            f"the credentials {_here()} may not assume the role; correct its trust policy, or the "
            "profile"
        )
    is_lasting = code in _LASTING or (code not in _PASSING and status < _SERVER_FAILED)
    return Failure(reason, hint, code, is_lasting=is_lasting, behind=err)


def _region_hint(response: Any) -> str:
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region")
    return f"set AWS_DEFAULT_REGION={region}" if region else f"{_REGION}, and check {_ENDPOINT}"


def _text_of(cause: BaseException) -> str:
    """Return the error's message, with the reason of a lost connection, without possible
    secrets."""
    from botocore import exceptions as aws  # noqa: PLC0415

    text = str(cause)
    if isinstance(cause, aws.NoCredentialsError):
        return "no credentials for S3"
    if "Invalid header value" in text:  # followed by the value, such as a session token
        return _BAD_HEADER
    if (
        isinstance(cause, aws.CredentialRetrievalError)
        and cause.kwargs["provider"] == "custom-process"
    ):
        return "the program that credential_process names failed"  # it may print secrets
    if isinstance(cause, aws.ParamValidationError):
        return text.removeprefix("Parameter validation failed:").partition(
            ": Bucket name must match"
        )[0]
    if isinstance(cause, aws.EndpointConnectionError | aws.ProxyConnectionError):
        behind = _REASON.search(str(cause.kwargs.get("error")))
        return f"{text}: {behind[1]}" if behind else text
    return text


def _advice(cause: BaseException, text: str) -> tuple[str, bool]:
    """Return what to do about an error that is not a server's answer, and whether it is lasting."""
    from botocore.exceptions import EndpointConnectionError, ParamValidationError, SSLError  # noqa: PLC0415

    if isinstance(cause, SSLError):
        return _ssl_advice(text)
    if isinstance(cause, ParamValidationError) and "Invalid bucket name" in text:
        return _LASTING["InvalidBucketName"], True
    if isinstance(cause, EndpointConnectionError) and "name" in text.rpartition(": ")[2].lower():
        return f"no server has that name; check DNS, {_ENDPOINT}, and AWS_DEFAULT_REGION", False
    if text == _BAD_HEADER:
        return (
            f"correct AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN {_here()}",
            True,
        )
    kinds = {**_connections(), **_settings()}
    return next(
        (advice for kind, advice in kinds.items() if isinstance(cause, kind)), (_BUSY, False)
    )


def _connections() -> dict[type[BaseException], tuple[str, bool]]:
    """Hints for failed connections by type of error. The first that matches applies."""
    from botocore import exceptions as aws  # noqa: PLC0415

    proxy = "correct HTTPS_PROXY or HTTP_PROXY, or add the server to NO_PROXY"
    refused = f"check that the server is running and the network lets you reach it, and {_ENDPOINT}"
    silent = (
        "the server does not answer; check it, the network, HTTPS_PROXY and NO_PROXY, and "
        f"{_ENDPOINT}"
    )
    broken = f"check the network and {_ENDPOINT}: https:// or http://"
    return {
        aws.ProxyConnectionError: (proxy, False),
        aws.EndpointConnectionError: (refused, False),
        aws.ConnectTimeoutError: (silent, False),
        aws.ReadTimeoutError: (silent, False),
        aws.HTTPClientError: (broken, False),
        aws.ConnectionError: (broken, False),
        aws.IncompleteReadError: (broken, False),
        aws.ChecksumError: (_DAMAGED, False),
        aws.FlexibleChecksumError: (_DAMAGED, False),
    }


def _settings() -> dict[type[BaseException], tuple[str, bool]]:
    """Hints for AWS's settings on this machine by type of error. The first that matches applies."""
    from botocore import exceptions as aws  # noqa: PLC0415

    both = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    region = "set AWS_DEFAULT_REGION to a region such as us-east-1"
    sso = f"run `aws sso login` with the same profile {_here()}, and then {_AGAIN}"
    other = f"correct AWS's settings {_here()}: its variables, ~/.aws/config and ~/.aws/credentials"
    hints: dict[type[BaseException], str] = {
        aws.NoCredentialsError: f"set {both}, a profile, or a role of the machine, {_here()}",
        aws.PartialCredentialsError: f"set both {both} {_here()}, or neither",
        aws.ProfileNotFound: f"correct AWS_PROFILE, or add the profile to ~/.aws/config {_here()}",
        aws.SSOError: sso,
        aws.TokenRetrievalError: sso,
        aws.ConfigParseError: "correct the file",
        aws.InvalidRegionError: region,
        aws.NoRegionError: region,
        aws.EndpointProviderError: f"correct {_ENDPOINT}: a URL such as https://HOST:PORT",
        aws.MissingDependencyException: f"install it {_here()}, or use other credentials",
        aws.BotoCoreError: other,
        UnencryptedError: (
            f"use https:// in {_ENDPOINT}, or set {ALLOW_HTTP}=1 if you trust all networks between "
            "these machines"
        ),
        EndpointError: "correct it, or endpoint_url in ~/.aws/config",
        SettingsError: other,
    }
    return {kind: (hint, True) for kind, hint in hints.items()}


def _ssl_advice(text: str) -> tuple[str, bool]:
    """Return what to do about a connection that fails because of TLS, and whether it is lasting."""
    bundle = os.environ.get("AWS_CA_BUNDLE")
    set_bundle = f"AWS_CA_BUNDLE {_here()} " + (f"is {bundle}" if bundle else "is not set")
    if "WRONG_VERSION_NUMBER" in text or "UNKNOWN_PROTOCOL" in text:
        return f"the server does not use TLS on this port; write http:// in {_ENDPOINT}", True
    if "No such file" in text or "NO_CERTIFICATE_OR_CRL_FOUND" in text or "[X509" in text:
        return f"set AWS_CA_BUNDLE to a file with certificates; {set_bundle}", True
    if "mismatch" in text or "doesn't match" in text:
        return f"the certificate is for another name; use that name in {_ENDPOINT}", True
    if "certificate has expired" in text or "not yet valid" in text:
        return f"renew the server's certificate, or {_CLOCK}", True
    if "certificate verify failed" in text.lower() or "CERTIFICATE_VERIFY_FAILED" in text:
        return (
            "set AWS_CA_BUNDLE to the certificate of the server's certificate authority; "
            f"{set_bundle}",
            True,
        )
    return f"check the network and {_ENDPOINT}", False


def _here() -> str:
    """Name this machine, because a worker's error is read on another one."""
    return f"on {socket.gethostname()}"
