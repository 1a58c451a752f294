"""A download whose server does not send what it listed. test_node_cache.py has the whole ones."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator.errors import DataError
from orchestrator.s3.bucket import Object
from pipelines.data.download import download
from pipelines.data.listing import Listed
from pipelines.data.s3 import DataBucket


class _SendsHalf(BaseHTTPRequestHandler):
    """Sends 500 bytes of each object."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "500")
        self.end_headers()
        self.wfile.write(bytes(500))

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


def test_object_shorter_than_listed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = {tmp_path / "y": Listed(Object("y", 1000, "tag"), sha256=None)}
    with HTTPServer(("127.0.0.1", 0), _SendsHalf) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        with pytest.raises(DataError, match=r"^s3://bucket/x/y: ends early; upload it again$"):
            download(DataBucket("s3://bucket/x"), listed, lambda text: None)
        server.shutdown()
    assert not (tmp_path / "y").exists()
