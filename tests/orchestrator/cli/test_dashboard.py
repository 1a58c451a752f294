"""The verb dashboard as users start and end it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.orchestrator.live.serving import WrittenRun, ask

TOKEN = "0123456789abcdef-secret"


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    run = WrittenRun(tmp_path)
    run.begin()
    run.hear(3)
    return run


@contextmanager
def started(
    run: WrittenRun, *options: str, env: Mapping[str, str] = {}
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the first line that it prints."""
    command = [sys.executable, "-m", "orchestrator", "dashboard", "job.yaml", *options]
    process = subprocess.Popen(
        command,
        cwd=run.folder,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


def port_of(line: str) -> int:
    (port,) = re.findall(r"http://[^ ]+:(\d+)", line)
    return int(port)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_0_while_a_page_is_open(
    run: WrittenRun, poisoned: dict[str, str], signum: int
) -> None:
    with started(run, "--port", "0", env=poisoned) as (process, line):
        assert re.fullmatch(r"small: http://127\.0\.0\.1:\d+\. Ctrl-C ends it\.\n", line)
        assert "<title>small</title>" in ask(port_of(line)).text
        with socket.create_connection(("127.0.0.1", port_of(line)), timeout=60) as connection:
            connection.sendall(b"GET /updates HTTP/1.1\r\nHost: localhost\r\n\r\nGET /upd")
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
            process.send_signal(signum)
            printed, errors = process.communicate(timeout=300)
    assert (process.returncode, printed, errors) == (0, "", "")


def test_the_token_is_needed_and_never_printed(run: WrittenRun) -> None:
    (run.folder / "token").write_text(f"{TOKEN}\n")
    options = ("--port", "0", "--host", "0.0.0.0", "--token-file", "token")
    with started(run, *options) as (process, line):
        assert line.endswith("; it asks for the token. Ctrl-C ends it.\n")
        assert ask(port_of(line), Host="any.name").status == 401
        entered = ask(port_of(line), f"/?token={TOKEN}", Host="any.name")
        assert entered.status == 200
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=300)
    assert TOKEN not in line + printed + errors


@pytest.mark.parametrize(
    ("options", "exit_code", "error"),
    [
        (["--port", "70000"], 2, "argument --port: '70000' is not a port; give 0 to 65535"),
        (["--port", "-1"], 2, "argument --port: '-1' is not a port"),
        (["--host", "0.0.0.0"], 2, "--host 0.0.0.0: other machines can reach this address"),
        (["--token-file", "missing"], 2, "--token-file missing: cannot be read"),
        (["--host", "203.0.113.1"], 3, "this machine cannot listen there"),
        (["--host", "no.such.name.invalid"], 3, "this machine cannot listen there"),
    ],
)
def test_a_wrong_option_ends_with_advice(
    run: WrittenRun, options: list[str], exit_code: int, error: str
) -> None:
    token = {} if error.startswith("--host 0") else {"ORCHESTRATOR_TOKEN": TOKEN}
    with started(run, *options, env=token) as (process, line):
        _, errors = process.communicate(timeout=300)
    assert (process.returncode, line) == (exit_code, "")
    assert error in errors
    assert "Traceback" not in errors


def test_a_port_in_use_ends_with_advice(run: WrittenRun) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with started(run, "--port", str(port)) as (process, _):
            _, errors = process.communicate(timeout=300)
    assert process.returncode == 3
    assert errors.splitlines() == [
        f"--host 127.0.0.1 --port {port}: another program uses this port; choose another one, or "
        "--port 0 for any"
    ]
