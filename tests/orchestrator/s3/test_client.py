"""What a store in S3 reports and does if the server, the network or AWS's settings are faulty."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from orchestrator.errors import StoreError, StoreRefusedError
from orchestrator.s3 import client
from orchestrator.store import open_store
from tests.s3_front import Answer, front, refusal

KEYS = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "sEcReT"}


@pytest.fixture(autouse=True)
def one_attempt(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No waits between attempts, and only the AWS settings of the test."""
    if "bucket" in request.fixturenames:
        request.getfixturevalue("bucket")  # created with the settings that all tests share
    for name in [
        name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")
    ]:
        monkeypatch.delenv(name)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setattr(client, "MAX_ATTEMPTS", 1)


@pytest.fixture
def silent_url() -> Iterator[str]:
    """Yield the URL of a server that accepts connections but never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


def test_secrets_of_clients_are_known_to_redaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = AKIAFILE\naws_secret_access_key = from-a-file\n"
    )
    assert not {"AKIAFILE", "from-a-file"} & client.known_secrets()
    _client = client.new_client(max_connections=1, read_timeout_s=1)
    assert {"AKIAFILE", "from-a-file"} <= client.known_secrets()


def _refuses_checksums(method: str, path: str, headers: Mapping[str, str]) -> Answer | None:
    """Refuse checksum trailers, as older MinIO and Ceph do."""
    names = {name.lower() for name in headers}
    is_chunked = "aws-chunked" in headers.get("Content-Encoding", "")
    if is_chunked or any(
        name.startswith(("x-amz-trailer", "x-amz-checksum", "x-amz-sdk-checksum")) for name in names
    ):
        return refusal(
            501,
            "NotImplemented",
            "A header you provided implies functionality that is not implemented",
        )
    return None


@pytest.mark.parametrize("is_tls", [False, True])
def test_uploads_work_without_checksum_trailers(
    bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_tls: bool
) -> None:
    content = os.urandom(2**10) * (20 * 2**10)
    (tmp_path / "large").write_bytes(content)
    (tmp_path / "small").write_bytes(b"small")
    with front(
        _refuses_checksums, behind=s3_endpoint, tls_dir=tmp_path / "tls" if is_tls else None
    ) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "tls" / "cert.pem"))
        store = open_store(f"s3://{bucket}/x")
        store.write("written", b"1")
        assert store.create("created", b"2")
        store.upload("small", tmp_path / "small")
        store.upload("large", tmp_path / "large")
        assert store.download("large", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == content
    assert any("uploadId=" in path for method, path in server.requests if method == "PUT")


def test_checksums_set_by_the_user_are_sent(
    bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with front(_refuses_checksums, behind=s3_endpoint) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        (tmp_path / "config").write_text(
            "[default]\nrequest_checksum_calculation = when_supported\n"
        )
        with pytest.raises(
            StoreRefusedError, match=r"not implemented \(NotImplemented\); the server does not supp"
        ):
            open_store(f"s3://{bucket}/x").write("a", b"1")


def test_download_that_breaks_off_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [Answer(200, b"half", {"Content-Length": "8"}), Answer(200, b"complete")]
    with front(lambda *_: answers.pop(0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setattr(client, "MAX_ATTEMPTS", 2)
        assert open_store("s3://bucket/x").read("a") == b"complete"


PATIENT = """
import sys
from orchestrator.s3 import client
client.READ_TIMEOUT_S = 0.5
from orchestrator.cli import main
main(sys.argv[1:])
"""


def test_silent_server_is_reported_retried_and_given_up(silent_url: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "{name: a, stages: {p: {kind: pretrain, data: 'sample:digits', epochs: 1}}}"
    )
    command = [sys.executable, "-c", PATIENT, "plan", "job.yaml", "--store", "s3://bucket/x"]
    env = os.environ | {"AWS_ENDPOINT_URL": silent_url}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 3, done.stderr
    assert lines[:-1] == [f"the server {silent_url} does not answer; trying again (2 of 3)"]
    assert lines[-1].startswith(
        "store s3://bucket/x: cannot read jobs/a/latest.json: Read timeout on endpoint URL: "
    )
    assert (
        "the server does not answer; check it, the network, HTTPS_PROXY and NO_PROXY" in lines[-1]
    )


def test_requests_to_a_silent_server_end_within_minutes() -> None:
    for timeout_s, most_s in (
        (client.READ_TIMEOUT_S, 60),
        (client.CONNECT_TIMEOUT_S, 60),
        (client.UPLOAD_READ_TIMEOUT_S, 240),
    ):
        assert (
            client.MAX_SILENCES * timeout_s + sum(2**tries for tries in range(client.MAX_SILENCES))
            < most_s
        )


def _accepts(method: str, path: str, headers: Mapping[str, str]) -> Answer:
    """Accept an upload and return its checksum, as S3 does."""
    name = "x-amz-checksum-sha256"
    return Answer(200, headers={name: headers[name]} if name in headers else {})


def test_upload_waits_longer_than_a_small_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The kernel accepts some megabytes of the file, then waits until the server reads more."""
    (tmp_path / "large").write_bytes(bytes(15 * 2**20))
    monkeypatch.setattr(client, "CONNECT_TIMEOUT_S", 0.5)
    monkeypatch.setattr(client, "READ_TIMEOUT_S", 0.5)
    with front(_accepts, pause_s=2) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        store = open_store("s3://bucket/x")
        store.upload("large", tmp_path / "large")
        with pytest.raises(StoreError, match="the server does not answer"):
            store.write("small", b"1")


def test_failing_server_is_reported_once_for_all_threads(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client, "MAX_ATTEMPTS", 4)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with front(lambda *_: refusal(503, "SlowDown")) as server, caplog.at_level(logging.WARNING):
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        with pytest.raises(StoreError, match=r"SlowDown; the server is overloaded or down"):
            open_store("s3://bucket/x").read("a")
    assert len(server.requests) == 4
    assert [record.message for record in caplog.records] == [
        f"the server {server.url} fails; trying again (3 of 4)"
    ]


LASTING = {
    (
        403,
        "AccessDenied",
    ): "(without s3:ListBucket, S3 answers AccessDenied for an object that does not exist)",
    (
        403,
        "InvalidAccessKeyId",
    ): "the server does not know the credentials found by AWS's standard chain",
    (
        403,
        "SignatureDoesNotMatch",
    ): "the secret key found by AWS's standard chain does not match the access key",
    (400, "ExpiredToken"): "renew the credentials (`aws sso login`, or new AWS_ACCESS_KEY_ID",
    (400, "InvalidToken"): "AWS_SESSION_TOKEN does not belong to AWS_ACCESS_KEY_ID",
    (403, "RequestTimeTooSkewed"): "set the clock of this machine",
    (501, "NotImplemented"): "the server does not support all of S3's protocol",
    (
        404,
        "NoSuchBucket",
    ): "create the bucket, or choose another one with `store:` in the job or --store",
    (400, "InvalidBucketName"): "correct the bucket's name",
    (507, "XMinioStorageFull"): "the server is full",
    (403, "InvalidObjectState"): "the object is archived; restore it first",
    (407, "407"): "set the proxy's user and password",
    (418, "Teapot"): "check the bucket's policy",
}
PASSING = {
    (503, "SlowDown"): "the server is overloaded or down",
    (500, "InternalError"): "the server is overloaded or down",
    (502, "Bad Gateway"): "the server is overloaded or down",
    (400, "RequestTimeout"): "bytes were changed or lost in transit",
    (400, "XAmzContentSHA256Mismatch"): "bytes were changed or lost in transit",
    (409, "OperationAborted"): "another client writes to the same object",
}


def test_each_refusal_has_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [refusal(status, code) for status, code in (*LASTING, *PASSING)]
    with front(lambda *_: answers.pop(0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        store = open_store("s3://bucket/x")
        for (_, code), hint in {**LASTING, **PASSING}.items():
            with pytest.raises(StoreError) as caught:
                store.read("a")
            text = str(caught.value)
            assert text.startswith(f"store s3://bucket/x: cannot read a: the message of {code}; ")
            assert hint in text
            assert isinstance(caught.value, StoreRefusedError) is (hint in LASTING.values())


@pytest.mark.parametrize(
    "answer",
    [
        refusal(301, "PermanentRedirect", headers={"x-amz-bucket-region": "eu-west-1"}),
        refusal(400, "AuthorizationHeaderMalformed", Region="eu-west-1"),
    ],
)
def test_error_for_another_region_names_the_region(
    monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    with front(lambda *_: answer) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        with pytest.raises(StoreRefusedError, match="; set AWS_DEFAULT_REGION=eu-west-1"):
            open_store("s3://bucket/x").read("a")


def test_error_names_the_header_of_a_conditional_put(monkeypatch: pytest.MonkeyPatch) -> None:
    with front(
        lambda *_: refusal(501, "NotImplemented", "not implemented", Header="If-None-Match")
    ) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        text = (
            r"not implemented \(NotImplemented, header If-None-Match\); .*with conditional and "
            r"multipart uploads"
        )
        with pytest.raises(StoreRefusedError, match=text):
            open_store("s3://bucket/x").create("a", b"")


def test_refusal_without_a_reason_names_likely_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A download begins with a HEAD request, whose answer has no content."""
    with front(lambda *_: Answer(400)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        with pytest.raises(
            StoreRefusedError, match=r"usually the credentials have expired .*another region"
        ):
            open_store("s3://bucket/x").download("a", tmp_path / "down")


def test_download_that_keeps_failing_is_a_store_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = {"Content-Length": "8", "ETag": '"a"'}
    with front(lambda *_: Answer(200, b"half", whole)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        with pytest.raises(StoreError, match=r"cannot read a: .*; check the network"):
            open_store("s3://bucket/x").download("a", tmp_path / "down")


SSO = """
[profile sso]
sso_start_url = https://example.awsapps.com/start
sso_region = us-east-1
sso_account_id = 123456789012
sso_role_name = role
"""
TOOL = "[default]\ncredential_process = {}\n"


@pytest.mark.parametrize(
    ("config", "env", "text"),
    [
        (
            "",
            {"AWS_PROFILE": "nope"},
            r"profile \(nope\) could not be found; correct AWS_PROFILE, or add the profile",
        ),
        (
            SSO,
            {"AWS_PROFILE": "sso"},
            r"SSO Token.*; run `aws sso login` with the same profile on ",
        ),
        ("[default\n", {}, "Unable to parse config file: .*/config; correct the file"),
        ("[default]\ns3 = path\n", {}, "~/.aws/config has a value of the wrong type"),
        (
            "",
            {"AWS_ACCESS_KEY_ID": "x"},
            "missing: AWS_SECRET_ACCESS_KEY; set both AWS_ACCESS_KEY_ID and",
        ),
        (
            TOOL.format("/no/such/tool"),
            {},
            "/no/such/tool: No such file or directory; correct AWS's settings",
        ),
        (
            TOOL.format("echo sEcReT"),
            {},
            "the program that credential_process names did not print JSON",
        ),
        (
            TOOL.format("cat /no/sEcReT"),
            {},
            "the program that credential_process names failed; correct",
        ),
        (
            "",
            {**KEYS, "AWS_DEFAULT_REGION": "us east"},
            "region_name 'us east' .*; set AWS_DEFAULT_REGION to a region",
        ),
        (
            "",
            {**KEYS, "AWS_ENDPOINT_URL": "http://localhost:99999"},
            "not a valid URI; correct AWS_ENDPOINT_URL",
        ),
        (
            "",
            {**KEYS, "AWS_SESSION_TOKEN": "sEcReT\n"},
            "credentials contain a line break .*; correct AWS_ACCESS_KEY_ID",
        ),
        (
            "",
            {**KEYS, "AWS_ACCESS_KEY_ID": "sEcReT\n"},
            "credentials contain a line break .*; correct AWS_ACCESS_KEY_ID",
        ),
        (
            "[default]\nendpoint_url = me:sEcReT@host\n",
            KEYS,
            "must be a URL such as https://HOST:PORT; correct it",
        ),
    ],
)
def test_error_for_invalid_settings_shows_no_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: str, env: Mapping[str, str], text: str
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", **env}.items():
        monkeypatch.setenv(name, value)
    if "endpoint_url" in config:
        monkeypatch.delenv("AWS_ENDPOINT_URL")
    (tmp_path / "config").write_text(config)
    with pytest.raises(StoreRefusedError, match=text) as caught:
        open_store("s3://bucket/x").read("a")
    assert "sEcReT" not in "".join(traceback.format_exception(caught.value))


def test_error_for_an_invalid_bucket_shows_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    text = 'cannot read a: Invalid bucket name "my bucket"; correct the bucket\'s name'
    with pytest.raises(StoreRefusedError, match=text):
        open_store("s3://my bucket/x").read("a")


@pytest.mark.parametrize(
    ("name", "url", "text"),
    [
        ("AWS_ENDPOINT_URL", "http://no-such-host.invalid", "no server has that name; check DNS"),
        (
            "AWS_ENDPOINT_URL",
            "http://127.0.0.1:1",
            "Connection refused; check that the server is running",
        ),
        (
            "HTTP_PROXY",
            "http://me:sEcReT@127.0.0.1:1",
            'proxy URL: "http://127.0.0.1:1": Connection refused; correct HTTPS_PROXY',
        ),
    ],
)
def test_error_for_an_unreachable_server_says_what_to_check(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str, text: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://server.invalid")
    monkeypatch.setenv("ORCHESTRATOR_ALLOW_HTTP", "1")
    monkeypatch.setenv(name, url)
    with pytest.raises(StoreError, match=text) as caught:
        open_store("s3://bucket/x").read("a")
    assert not isinstance(caught.value, StoreRefusedError)
    assert "sEcReT" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("host", ["10.0.0.1", "minio", "me:sEcReT@store.example"])
def test_endpoint_without_tls_on_another_machine_is_refused(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:9000")
    text = (
        rf"http://{host.rpartition('@')[2]}:9000 is not encrypted, so data could be read and "
        r"changed on the network; use https:// in AWS_ENDPOINT_URL .*, or set "
        r"ORCHESTRATOR_ALLOW_HTTP=1 if you trust"
    )
    with pytest.raises(StoreRefusedError, match=text) as caught:
        open_store("s3://bucket/x").read("a")
    assert "sEcReT" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("host", ["localhost", "127.1.2.3", "[::1]", "s3.localhost"])
def test_endpoint_without_tls_on_this_machine_is_accepted(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:9000")
    assert client.new_client(max_connections=1, read_timeout_s=1).meta.endpoint_url


def test_proxy_that_requires_a_password_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with front(lambda *_: Answer(407)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "https://server.invalid")
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(
            StoreError, match=r"proxy URL: .*: 407 .*; correct HTTPS_PROXY or HTTP_PROXY"
        ):
            open_store("s3://bucket/x").read("a")


def test_tls_errors_name_the_variable_and_its_value(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with front(lambda *_: Answer(200, b"content"), tls_dir=tmp_path / "tls") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        unknown = (
            r"set AWS_CA_BUNDLE to the certificate of the server's certificate authority; "
            r"AWS_CA_BUNDLE on .* is not set"
        )
        with pytest.raises(StoreRefusedError, match=unknown):
            open_store("s3://bucket/x").read("a")
        monkeypatch.setenv("AWS_CA_BUNDLE", "/no/such/ca.pem")
        with pytest.raises(
            StoreRefusedError, match=r"to a file with certificates; .* is /no/such/ca\.pem"
        ):
            open_store("s3://bucket/x").read("a")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "tls" / "cert.pem"))
        assert open_store("s3://bucket/x").read("a") == b"content"
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.replace("127.0.0.1", "localhost"))
        with pytest.raises(StoreRefusedError, match="the certificate is for another name"):
            open_store("s3://bucket/x").read("a")


def test_server_without_tls_is_not_a_wrong_certificate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with front(lambda *_: Answer(200)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.replace("http://", "https://"))
        with pytest.raises(
            StoreRefusedError,
            match="the server does not use TLS on this port; write http:// in AWS_ENDPOINT_URL",
        ):
            open_store("s3://bucket/x").read("a")
