"""Server errors while data are read from S3."""

from __future__ import annotations

import threading
import traceback
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator.errors import DataError, UnreachableError
from orchestrator.s3 import client
from orchestrator.s3.bucket import Object
from pipelines.data.s3 import DataBucket


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        (
            "http://name:se:c@ret@127.0.0.1:9",
            UnreachableError,
            'endpoint URL: "http://127.0.0.1:9/',
        ),
        (
            "name:secret@127.0.0.1",
            DataError,
            "AWS_ENDPOINT_URL must be a URL such as https://HOST:PORT",
        ),
    ],
)
def test_credentials_in_the_server_address_are_not_shown(
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    url: str,
    error: type[Exception],
    text: str,
) -> None:
    monkeypatch.setattr(client, "MAX_ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    (tmp_path / "made").write_bytes(b"x")
    place = DataBucket(f"s3://{bucket}/x")
    for use in (
        lambda: place.sizes(""),
        lambda: place.read("y"),
        lambda: place.upload("y", tmp_path / "made"),
    ):
        with pytest.raises(error, match=text) as caught:
            use()
        shown = "".join(traceback.format_exception(caught.value))
        assert not any(part in shown for part in ("name:se", "c@ret", "secret"))


class _BreaksOff(BaseHTTPRequestHandler):
    """Breaks off its first response in the middle."""

    num_asked = 0

    def do_GET(self) -> None:
        type(self).num_asked += 1
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(bytes(1000 if self.num_asked > 1 else 500))

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


def test_incomplete_response_is_requested_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), _BreaksOff) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        assert DataBucket("s3://bucket/x").read_part(Object("y", 1000, "tag"), 0, 1000) == bytes(
            1000
        )
        server.shutdown()
    assert _BreaksOff.num_asked == 2
