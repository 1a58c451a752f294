"""Secrets never appear in a log: by the names of their variables, in URLs, in every form."""

from __future__ import annotations

import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.redaction import Redactor, secret_forms, secrets_of
from orchestrator.s3.client import known_secrets, new_client
from tests.orchestrator.test_credentials import ID, KEY
from tests.s3_front import Answer, front

SECRET = "open-sesame"


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SESSION_TOKEN",
        "WANDB_API_KEY",
        "db_password",
        "SLACK_WEBHOOK",
        "TEAMS_WEBHOOK_URI",
        "GITHUB_PAT",
        "PROXY_AUTH",
        "STORAGE_SAS_URL",
    ],
)
def test_value_of_a_variable_that_is_named_like_a_secret_is_replaced(name: str) -> None:
    redactor = Redactor(secrets_of({name: SECRET}))
    assert redactor.redacted(f"is {SECRET}, is".encode()) == b"is ***, is"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PWD", "/home/somebody"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/home/somebody/.aws"),
        ("RAY_AUTH_MODE", "disabled"),
        ("SSH_AUTH_SOCK", "/tmp/agent.1"),
        ("COMPAT_PATH", "/usr/lib/compat"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://host/credentials"),
        ("AWS_SECRET_ACCESS_KEY", "short"),
        ("KEYBOARD", "qwertyuiop"),
    ],
)
def test_other_values_stay_readable(name: str, value: str) -> None:
    assert Redactor(secrets_of({name: value})).redacted(value.encode()) == value.encode()


def test_variable_that_the_job_names_is_a_secret() -> None:
    redactor = Redactor(secrets_of({"CHAT_URL": "https://host/secret"}, {"CHAT_URL"}))
    assert redactor.redacted_text("to https://host/secret: \udcff") == "to ***: \\udcff"


def test_users_of_urls_are_replaced_also_outside_their_url() -> None:
    redactor = Redactor(secrets_of({"HTTPS_PROXY": "http://someone:open-sesame@proxy:3128"}))
    assert redactor.redacted(b"to http://a:b@proxy as open-sesame") == b"to http://***@proxy as ***"


def test_forms_and_lines_of_a_secret_are_replaced() -> None:
    redactor = Redactor(secrets_of({"PRIVATE_PEM": 'first line"1\nsecond/line2'}))
    printed = b'"first line\\"1\\n" first line"1 second%2Fline2 second/line2'
    assert redactor.redacted(printed) == b'"***\\n" *** *** ***'


def test_secret_that_is_not_utf_8_is_replaced() -> None:
    redactor = Redactor(secrets_of({"SOME_TOKEN": "open-sesame\udcff"}))
    assert redactor.redacted(b"open-sesame\xff open-sesame%FF") == b"*** ***"


@given(st.text("ab", min_size=8, max_size=12), st.text("abc", max_size=60), st.integers(20, 40))
def test_no_cut_splits_a_secret(secret: str, text: str, at: int) -> None:
    """The only exception is a text that begins with secrets that overlap."""
    redactor = Redactor({secret})
    raw = f"{text}c{secret}c{text}".encode()
    end = redactor.cut(raw, min(at, len(raw)))
    assert 0 < end <= max(at, len(secret))
    for start in range(max(0, end - len(secret) + 1), end):
        found = raw[start : start + len(secret)] == secret.encode()
        assert not (found and start < end < start + len(secret)) or end == len(secret)


def test_credentials_that_no_variable_has_are_replaced() -> None:
    redactor = Redactor(())
    body = "MIIEvQIBADANBgkq\n" * 3
    key = f"-----BEGIN PRIVATE KEY-----\n{body}-----END " + "PRIVATE KEY-----"
    assert redactor.redacted_text(f"id {ID}, {key}.") == "id ***, ***."
    url = "https://b.example/k?X-Amz-" + "Credential=abcdefgh%2F1&X-Amz-" + "Signature=0123456789"
    assert redactor.redacted_text(f"GET {url} HTTP/1.1") == "GET https://b.example/k****** HTTP/1.1"
    digest = "0a1b2c3d" * 8
    assert redactor.redacted_text(f"key {digest}, Signature={digest}") == (
        f"key {digest}, Signature=***"
    )


def test_debug_log_of_a_client_has_no_secret_after_redaction(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = {
        "AWS_ACCESS_KEY_ID": ID,
        "AWS_SECRET_ACCESS_KEY": KEY,
        "AWS_SESSION_TOKEN": "tokEn" * 9,
    }
    with front(lambda *_: Answer(200, b"content")) as server, caplog.at_level(logging.DEBUG):
        for name, value in {**secrets, "AWS_ENDPOINT_URL": server.url}.items():
            monkeypatch.setenv(name, value)
        client = new_client(max_connections=1, read_timeout_s=10)
        client.get_object(Bucket="bucket", Key="a")
        url = client.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "a"})
        logging.getLogger().info("presigned: %s", url)
    assert "tokEn" in caplog.text
    # As a log in the store is redacted, and as if a library had other credentials.
    for redactor in (Redactor(secret_forms(known_secrets())), Redactor({"tokEn" * 9})):
        text = redactor.redacted_text(caplog.text)
        assert not [secret for secret in secrets.values() if secret in text]
        assert not re.search(r"(?i)signature=[0-9a-f]{32}", text)


def test_redaction_of_a_long_line_takes_linear_time() -> None:
    """Patterns that backtrack would take minutes."""
    line = b"-----BEGIN PRIVATE KEY-----eyJaaaaaaaaaaaaaaaa." * 2_000
    assert len(Redactor(()).redacted(line)) < len(line)
