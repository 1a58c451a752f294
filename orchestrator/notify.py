"""Messages about a run to a chat: their text, and the thread that sends them.

It decides neither when to send one nor what it says. The URL of a webhook is a secret: no text of
this module contains it or a part of it.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit

from pydantic import JsonValue

from orchestrator.errors import JobError
from orchestrator.spec import Notify

TIMEOUT_S = 4.0
"""How long to wait for a connection, and then for the answer."""
PAUSES_S = (0.5, 2.0)
"""The waits between the three tries. Together they fit into the wait at the end of a run."""
END_WAIT_S = 5.0
"""How long the end of a run waits for messages that are not delivered yet."""
MAX_LINE = 500
"""Characters of a line. An error's first line may contain a whole list."""
TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500
REDIRECTS = range(300, 400)


@dataclass(frozen=True)
class Message:
    """What a chat shows: a headline, further lines, the store, and the command that shows more."""

    headline: str
    lines: tuple[str, ...]
    store: str
    command: str

    def to_json(self, format_: str) -> dict[str, JsonValue]:
        """Return the body of the request for a receiver of this format, `slack` or `teams`."""
        return _card(self) if format_ == "teams" else {"text": _slack_text(self)}


def _slack_text(message: Message) -> str:
    details = [f"• {_slack(line)}" for line in message.lines]
    return "\n".join(
        [
            _slack(message.headline),
            *details,
            f"store: {_slack(message.store)}",
            f"`{_slack(message.command)}`",
        ]
    )


def _slack(text: str) -> str:
    """Escape the characters with which Slack marks links and mentions, such as `<!channel>`."""
    return _cut(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _card(message: Message) -> dict[str, JsonValue]:
    """An Adaptive Card in the envelope that a workflow of Teams accepts."""
    body: list[JsonValue] = [
        _block(message.headline, weight="Bolder"),
        *(_block(f"• {line}") for line in message.lines),
        _block(f"store: {message.store}", isSubtle=True),
        _block(message.command, fontType="Monospace"),
    ]
    card: JsonValue = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
        "msteams": {"width": "Full"},
    }
    content_type = "application/vnd.microsoft.card.adaptive"
    return {
        "type": "message",
        "attachments": [{"contentType": content_type, "contentUrl": None, "content": card}],
    }


def _block(text: str, **style: JsonValue) -> dict[str, JsonValue]:
    """A paragraph. A TextRun is literal, while a TextBlock would read `*` and `_` as Markdown."""
    run: JsonValue = {"type": "TextRun", "text": _cut(text), **style}
    return {"type": "RichTextBlock", "inlines": [run]}


def _cut(text: str) -> str:
    return text if len(text) <= MAX_LINE else f"{text[: MAX_LINE - 1]}…"


def without_userinfo(uri: str) -> str:
    """Return the URI without a user name and a password. A path is returned as it is."""
    parts = urlsplit(uri)
    if "://" not in uri or "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@dataclass(frozen=True)
class Webhook:
    """A receiver of messages. `variable` is the environment variable that has its URL."""

    variable: str
    url: str = field(repr=False)
    format: str


def webhook_of(notify: Notify, environment: Mapping[str, str]) -> Webhook:
    """Return the webhook of a job. Raises JobError, without the URL, if the variable has none."""
    variable = notify.url_env
    url = environment.get(variable, "").strip()
    if not url:
        raise JobError(
            f"notify.url_env: the environment variable {variable} is not set; set it to the URL "
            "of the webhook, or send no messages with --set notify=null"
        )
    if (fault := _fault_of(url)) is not None:
        raise JobError(
            f"notify.url_env: the environment variable {variable} {fault}; set it to the URL of "
            "the webhook, such as https://HOST/PATH (its value is not shown, because it is a "
            "secret)"
        )
    return Webhook(variable, url, notify.format)


def _fault_of(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        (host or "").encode("idna")  # a connection needs it, and it refuses `a..b`
    except ValueError:  # its text would show the URL
        return "is not a URL"
    if parts.scheme not in ("http", "https"):
        return "is not a URL that starts with https:// or http://"
    if not host or not url.isascii() or not url.isprintable() or " " in url:
        return "is not a URL"
    return "has a user name or a password in its URL" if parts.username is not None else None


class Sender:
    """Sends messages in a thread. No call waits for the receiver, except `close`, which waits at
    most END_WAIT_S.

    `warn` gets one line for each message that is not delivered.
    """

    def __init__(
        self, webhook: Webhook, *, warn: Callable[[str], None], end_wait_s: float = END_WAIT_S
    ) -> None:
        self._webhook, self._warn, self._end_wait_s = webhook, warn, end_wait_s
        self._bodies: SimpleQueue[bytes | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._num_pending = 0
        # A daemon thread: a receiver that hangs must not keep the process.
        self._thread = threading.Thread(target=self._send, name="notify", daemon=True)
        self._thread.start()

    def post(self, message: Message) -> None:
        with self._lock:
            self._num_pending += 1
        self._bodies.put(json.dumps(message.to_json(self._webhook.format)).encode())

    def close(self) -> None:
        """Wait until the messages are delivered, but not long."""
        self._bodies.put(None)
        self._thread.join(self._end_wait_s)
        with self._lock:
            num_lost, self._num_pending = self._num_pending, 0
        for _ in range(num_lost):
            self._warn_of(f"the receiver was not done within {self._end_wait_s:g} s")

    def _send(self) -> None:
        while (body := self._bodies.get()) is not None:
            reason = deliver(self._webhook.url, body)
            with self._lock:
                # `close` may have given up on it, and has warned then.
                is_pending = self._num_pending > 0
                self._num_pending -= is_pending
            if reason is not None and is_pending:
                self._warn_of(reason)

    def _warn_of(self, reason: str) -> None:
        self._warn(f"notify: {self._webhook.variable}: {reason}; the message was not delivered")


@dataclass(frozen=True)
class Failure:
    """Why a message was not delivered, and whether another try may help."""

    reason: str
    is_temporary: bool


def deliver(
    url: str, body: bytes, *, timeout_s: float = TIMEOUT_S, pauses_s: Sequence[float] = PAUSES_S
) -> str | None:
    """Post JSON to a webhook, and try again if that may help. Returns why it was not delivered, or
    None."""
    failure = _post(url, body, timeout_s)
    for pause_s in pauses_s:
        if failure is None or not failure.is_temporary:
            break
        time.sleep(pause_s)
        failure = _post(url, body, timeout_s)
    return None if failure is None else failure.reason


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the message would be sent to a host that the user did not name, and
    urllib would turn the POST into a GET."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> None:
        return None


def _post(url: str, body: bytes, timeout_s: float) -> Failure | None:
    headers = {"Content-Type": "application/json", "User-Agent": "orchestrator"}
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310  see _fault_of
    opener = urllib.request.build_opener(_NoRedirects)  # it uses the proxies of the environment
    try:
        opener.open(request, timeout=timeout_s).close()
    except HTTPError as err:
        err.close()
        return _refusal(err.code)
    except URLError as err:
        # A text instead of an error is about a URL.
        is_temporary = not isinstance(err.reason, str)
        return Failure(_reason(err.reason, timeout_s), is_temporary)
    except TimeoutError:
        # The receiver has the message and may have shown it, so another try could show it twice.
        return Failure(f"the receiver did not answer within {timeout_s:g} s", is_temporary=False)
    except (UnicodeError, http.client.InvalidURL) as err:
        return Failure(_reason(err, timeout_s), is_temporary=False)
    except (OSError, http.client.HTTPException) as err:
        return Failure(_reason(err, timeout_s), is_temporary=True)
    return None


def _refusal(code: int) -> Failure:
    more = ", a redirect, which is not followed" if code in REDIRECTS else ""
    is_temporary = code == TOO_MANY_REQUESTS or code >= SERVER_ERROR
    return Failure(f"the receiver answered {code}{more}", is_temporary)


def _reason(err: object, timeout_s: float) -> str:
    """Describe a failed connection. The texts of these errors may contain the host or the path, so
    they are not used."""
    match err:
        case TimeoutError():
            return f"no connection to the receiver within {timeout_s:g} s"
        case socket.gaierror():
            return "the receiver's host name cannot be resolved"
        case ssl.SSLError():
            return f"no trusted connection to the receiver ({err.reason or 'TLS failed'})"
        case OSError(strerror=str(reason)):
            return f"no connection to the receiver: {reason}"
        case UnicodeError() | http.client.InvalidURL() | str():
            return "the host in its URL, or the proxy of the environment, is not valid"
    return "the receiver closed the connection without an answer"
