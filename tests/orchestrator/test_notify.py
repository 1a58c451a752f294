"""Messages to a chat: their text, and their delivery to a real receiver that may be broken."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from orchestrator.errors import JobError
from orchestrator.notify import Message, Sender, Webhook, deliver, webhook_of, without_userinfo
from orchestrator.spec import Notify
from tests.webhook import SECRET, receiving, unused_url

MESSAGE = Message(
    "paper: failed: pretrain",
    ("pretrain: <!channel> a & b > c",),
    "s3://bucket/cat",
    "orchestrator status paper.yaml --store s3://bucket/cat",
)
CARD = {
    "type": "object",
    "required": ["type", "version", "body"],
    "properties": {
        "type": {"const": "AdaptiveCard"},
        "version": {"enum": ["1.2", "1.3", "1.4", "1.5"]},
        "body": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["type", "inlines"],
                "properties": {
                    "type": {"const": "RichTextBlock"},
                    "inlines": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["type", "text"],
                            "properties": {
                                "type": {"const": "TextRun"},
                                "text": {"type": "string"},
                                "weight": {"enum": ["Default", "Lighter", "Bolder"]},
                                "fontType": {"enum": ["Default", "Monospace"]},
                                "isSubtle": {"type": "boolean"},
                            },
                            "additionalProperties": False,
                        },
                    },
                },
                "additionalProperties": False,
            },
        },
    },
}
ENVELOPE = {
    "type": "object",
    "required": ["type", "attachments"],
    "properties": {
        "type": {"const": "message"},
        "attachments": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["contentType", "content"],
                "properties": {
                    "contentType": {"const": "application/vnd.microsoft.card.adaptive"},
                    "content": CARD,
                },
            },
        },
    },
    "additionalProperties": False,
}
"""The part of the schema of Adaptive Cards that a message uses, in the envelope of Teams."""
NO_PAUSES = (0.0, 0.0)


def _sent(url: str, *messages: Message, end_wait_s: float = 60) -> list[str]:
    """Send messages and return the warnings."""
    warnings: list[str] = []
    sender = Sender(Webhook("HOOK", url, "slack"), warn=warnings.append, end_wait_s=end_wait_s)
    for message in messages:
        sender.post(message)
    sender.close()
    return warnings


def test_slack_text_has_every_part_and_no_mention() -> None:
    assert MESSAGE.to_json("slack") == {
        "text": "paper: failed: pretrain\n"
        "• pretrain: &lt;!channel&gt; a &amp; b &gt; c\n"
        "store: s3://bucket/cat\n"
        "`orchestrator status paper.yaml --store s3://bucket/cat`"
    }


def test_teams_gets_a_valid_card_with_literal_text() -> None:
    body: Any = MESSAGE.to_json("teams")
    jsonschema.validate(body, ENVELOPE)
    blocks = body["attachments"][0]["content"]["body"]
    texts = [block["inlines"][0]["text"] for block in blocks]
    assert texts == [
        MESSAGE.headline,
        f"• {MESSAGE.lines[0]}",
        f"store: {MESSAGE.store}",
        MESSAGE.command,
    ]


def test_long_line_of_an_error_is_cut() -> None:
    message = Message("x" * 1000, (), "s3://bucket", "status")
    assert message.to_json("slack")["text"] == f"{'x' * 499}…\nstore: s3://bucket\n`status`"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://key:password@bucket/cat", "s3://bucket/cat"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("/data/user@host/store", "/data/user@host/store"),
    ],
)
def test_uri_is_shown_without_its_user(uri: str, shown: str) -> None:
    assert without_userinfo(uri) == shown


@pytest.mark.parametrize(
    "value",
    [
        "",
        "  ",
        SECRET,
        f"ftp://{SECRET}",
        f"https:{SECRET}",
        f"https://{SECRET}..b/a",
        f"https://[{SECRET}",
        f"https://host:{SECRET}/a",
        f"https://user:{SECRET}@host/a",
        f"https://host/{SECRET} b",
        f"https://host/{SECRET}\nb",
        f"https://host/{SECRET}é",
    ],
)
def test_wrong_url_is_an_error_that_does_not_show_it(value: str) -> None:
    with pytest.raises(JobError, match=r"^notify\.url_env: .*HOOK .*set it to") as raised:
        webhook_of(Notify(url_env="HOOK"), {"HOOK": value})
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None


def test_webhook_never_shows_its_url() -> None:
    webhook = webhook_of(Notify(url_env="HOOK"), {"HOOK": f"https://host/{SECRET}\n"})
    assert webhook.url == f"https://host/{SECRET}"
    assert SECRET not in repr(webhook)


def test_unset_variable_is_named() -> None:
    with pytest.raises(JobError, match=r"variable HOOK is not set; .*--set notify=null"):
        webhook_of(Notify(url_env="HOOK"), {})


def test_messages_arrive_in_order_without_warnings() -> None:
    other = Message("paper: done", (), "s3://bucket/cat", "orchestrator report paper.yaml")
    with receiving(200, 202) as receiver:
        assert _sent(receiver.url, MESSAGE, other) == []
    assert [text.splitlines()[0] for text in receiver.texts] == [MESSAGE.headline, other.headline]
    assert receiver.paths == [f"/{SECRET}"] * 2


@pytest.mark.parametrize("code", [500, 503, 429])
def test_message_is_sent_again_after_a_temporary_error(code: int) -> None:
    with receiving(code, code, 200) as receiver:
        assert deliver(receiver.url, b"{}", pauses_s=NO_PAUSES) is None
    assert len(receiver.bodies) == 3


def test_broken_receiver_is_tried_three_times() -> None:
    with receiving(500) as receiver:
        assert _sent(receiver.url, MESSAGE) == [
            "notify: HOOK: the receiver answered 500; the message was not delivered"
        ]
    assert len(receiver.bodies) == 3


@pytest.mark.parametrize("code", [400, 403, 404, 410])
def test_refused_message_is_not_sent_again(code: int) -> None:
    with receiving(code) as receiver:
        assert deliver(receiver.url, b"{}") == f"the receiver answered {code}"
    assert len(receiver.bodies) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(code: int) -> None:
    with receiving(code, 200) as receiver:
        reason = deliver(receiver.url, b"{}")
    assert reason == f"the receiver answered {code}, a redirect, which is not followed"
    assert receiver.paths == [f"/{SECRET}"]


def test_slow_receiver_is_not_sent_the_message_twice() -> None:
    with receiving(None) as receiver:
        reason = deliver(receiver.url, b"{}", timeout_s=2, pauses_s=NO_PAUSES)
    assert reason == "the receiver did not answer within 2 s"
    assert len(receiver.bodies) == 1


def test_end_does_not_wait_for_a_receiver_that_hangs() -> None:
    with receiving(None) as receiver:
        warnings = _sent(receiver.url, MESSAGE, MESSAGE, end_wait_s=0.1)
    assert warnings == 2 * [
        "notify: HOOK: the receiver was not done within 0.1 s; the message was not delivered"
    ]


def test_absent_receiver_is_a_warning_without_the_url() -> None:
    reason = deliver(unused_url(), b"{}", pauses_s=NO_PAUSES)
    assert reason == "no connection to the receiver: Connection refused"
    url = f"http://{SECRET}.invalid/"
    assert deliver(url, b"{}", pauses_s=()) == "the receiver's host name cannot be resolved"


def test_host_that_is_not_valid_is_a_warning_without_the_url() -> None:
    warnings = _sent(f"https://{SECRET}..b/x", MESSAGE, MESSAGE)
    assert warnings == 2 * [
        "notify: HOOK: the host in its URL, or the proxy of the environment, is not valid; the "
        "message was not delivered"
    ]


@pytest.mark.parametrize("proxy", ["http://a..b:3", "http://h:port", "http:///", "socks5://h:1"])
def test_proxy_that_is_not_valid_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    reason = deliver("http://chat.invalid/path", b"{}")
    assert reason == "the host in its URL, or the proxy of the environment, is not valid"


def test_receiver_without_https_is_not_trusted() -> None:
    with receiving() as receiver:
        reason = deliver(receiver.url.replace("http:", "https:"), b"{}", pauses_s=())
    assert reason is not None
    assert reason.startswith("no trusted connection to the receiver (")


def test_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert deliver("http://chat.invalid/path", b"{}") is None
    assert proxy.paths == ["http://chat.invalid/path"]
