"""The server of the live page: what it answers, to whom, and what it never shows."""

from __future__ import annotations

import logging
import re
import socket
from pathlib import Path

import pytest

from orchestrator.errors import MachineError
from orchestrator.report.page import resource
from tests.orchestrator.live.serving import (
    Answer,
    WrittenRun,
    ask,
    complete_updates,
    serving,
    updates,
    updates_with,
)

TOKEN = "0123456789abcdef-secret"


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    run = WrittenRun(tmp_path)
    run.begin()
    run.hear(3)
    return run


def test_the_page_may_load_only_from_its_server(run: WrittenRun) -> None:
    with serving(run) as port:
        answer = ask(port)
    policy = answer.headers["Content-Security-Policy"]
    assert re.fullmatch(
        r"default-src 'none'; script-src 'sha256-\S+' 'sha256-\S+'; style-src 'unsafe-inline'; "
        r"img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        r"frame-ancestors 'none'",
        policy,
    )
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/updates/more", 404),
        ("GET", "/..%2f..%2fetc/passwd", 404),
        ("POST", "/", 405),
        ("DELETE", "/updates", 405),
        ("HEAD", "/", 200),
        ("GET", "/health", 200),
    ],
)
def test_only_the_page_and_its_updates_are_there(
    run: WrittenRun, method: str, path: str, status: int
) -> None:
    with serving(run) as port:
        assert ask(port, path, method=method).status == status


def test_an_update_has_only_what_changed(run: WrittenRun) -> None:
    with serving(run) as port:
        first = complete_updates(port)
        run.hear(4)
        since = f"{first['server']}.{first['version']}"
        update = updates_with(port, "events", since)
    assert "epoch 4/10" in update["sections"]["events"]
    assert {"paper", "stages", "origin"} <= first["sections"].keys() - update["sections"].keys()
    assert update["names"] == first["names"]


@pytest.mark.parametrize("since", ["", "another.5", "x", ".", "1" * 5000], ids=range(5))
def test_an_unknown_version_gets_everything(run: WrittenRun, since: str) -> None:
    with serving(run) as port:
        complete_updates(port)
        assert "origin" in updates(port, since)["sections"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "0.0.0.0"])
def test_a_foreign_host_name_is_refused(run: WrittenRun, host: str) -> None:
    with serving(run) as port:
        answer = ask(port, "/updates", Host=host)
    assert answer.status == 421
    assert "small" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "[::1]:8500"])
def test_names_of_this_machine_are_answered(run: WrittenRun, host: str) -> None:
    with serving(run) as port:
        assert ask(port, Host=host).status == 200


def cookie_of(answer: Answer) -> str:
    return answer.headers["Set-Cookie"].partition(";")[0]


@pytest.mark.parametrize("path", ["/", "/updates", "/nothing", "/?token=wrong", "/?token="])
def test_nothing_is_shown_without_the_token(run: WrittenRun, path: str) -> None:
    with serving(run, token=TOKEN) as port:
        answer = ask(port, path, Authorization="Bearer wrong", Cookie=f"orchestrator_{port}=wrong")
    assert answer.status == 401
    assert "small" not in answer.text
    assert "Set-Cookie" not in answer.headers


def test_the_token_opens_the_page_as_a_bearer(run: WrittenRun) -> None:
    with serving(run, token=TOKEN) as port:
        answer = ask(port, Authorization=f"Bearer {TOKEN}")
    assert answer.status == 200
    assert TOKEN not in answer.text


def test_the_token_is_exchanged_for_a_cookie(
    run: WrittenRun, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(run, token=TOKEN) as port:
        entered = ask(port, f"/?token={TOKEN}")
        assert {"HttpOnly", "SameSite=Strict"} <= set(entered.headers["Set-Cookie"].split("; "))
        assert 'http-equiv="refresh" content="0; url=./"' in entered.text
        opened = ask(port, "/", Cookie=cookie_of(entered))
    assert opened.status == 200
    assert TOKEN not in opened.text + entered.text + str(entered.headers)
    assert TOKEN not in "".join(capfd.readouterr())


def test_a_cookie_outlives_its_server(run: WrittenRun) -> None:
    with serving(run, token=TOKEN) as port:
        cookie = cookie_of(ask(port, f"/?token={TOKEN}"))
    with serving(run, token=TOKEN, port=port):
        assert ask(port, "/", Cookie=cookie).status == 200
    with serving(run, token="another token of a day", port=port):
        assert ask(port, "/", Cookie=cookie).status == 401


def test_malformed_requests_leave_no_token_in_the_log(
    run: WrittenRun, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    malformed = (f"GET /?token={TOKEN} HTTP/9.9.9\r\n\r\n", f"GE\0T /?token={TOKEN}\r\n\r\n")
    with serving(run, token=TOKEN) as port:
        for request in malformed:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(request.encode())
                assert b" 400 " in connection.recv(1000)
    assert TOKEN not in caplog.text


def test_a_port_in_use_is_an_error_with_advice(run: WrittenRun) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        error = f"--host 127.0.0.1 --port {taken}: another program uses this port"
        with pytest.raises(MachineError, match=error), serving(run, port=taken):
            pytest.fail("it serves")


def test_the_static_report_has_no_script_of_the_live_page() -> None:
    assert "fetch(" not in resource("page.js")
    assert "fetch(" in resource("live.js", "orchestrator.live")
