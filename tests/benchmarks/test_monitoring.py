"""`python -m benchmarks.monitoring`: the results of rounds, and the watchers. No test asserts a
time."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks import monitoring
from benchmarks.monitoring import _asked, main
from benchmarks.overhead import Side

SIDE = Side(startup_s=3.0, images_per_s=(100.0, 104.0, 90.0), loss=2.3)


def test_the_exit_code_shows_whether_the_bar_is_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(monitoring, "_train_watched", lambda *_: SIDE)
    monkeypatch.setattr(monitoring, "_train_unwatched", lambda *_: SIDE)
    assert main(["--rounds", "2"]) == 0
    slower = replace(SIDE, images_per_s=(98.0,))
    monkeypatch.setattr(monitoring, "_train_watched", lambda *_: slower)
    assert main(["--rounds", "1"]) == 1
    out = capsys.readouterr().out
    assert "watched / unwatched: 1.000 (1.000..1.000 in 2 rounds); bar >= 0.99: met" in out
    assert "watched / unwatched: 0.980 (0.980..0.980 in 1 rounds); bar >= 0.99: MISSED" in out


def test_a_watcher_asks_again_and_again_until_its_block_ends() -> None:
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"yes")

        def log_message(self, *_: object) -> None:
            """Write no line for each request."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with _asked(f"http://127.0.0.1:{server.server_port}/updates", every_s=0.01):
            deadline_s = time.monotonic() + 60
            while len(paths) < 3:
                assert time.monotonic() < deadline_s
                time.sleep(0.01)
        server.shutdown()
    assert set(paths) == {"/updates"}
