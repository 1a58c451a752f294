"""A proxy in front of an S3 server that fails every request once.

The faults take turns: a 503, a 500, and a connection reset.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from urllib.parse import urlsplit

FAULTS = ("SlowDown", "InternalError", "reset")
STATUS = {"SlowDown": 503, "InternalError": 500}
HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "keep-alive"})
"""Headers that concern one connection only, in lower case."""


class FaultProxy(ThreadingHTTPServer):
    """A proxy that fails a request, and passes on the next one with the same method and path.

    So no request fails twice in a row.
    """

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        target = urlsplit(endpoint)
        assert target.hostname is not None
        assert target.port is not None
        self.target = target.hostname, target.port
        self.num_faults = 0
        self._faults = cycle(FAULTS)
        self._failed: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault_for(self, request: tuple[str, str]) -> str | None:
        """The fault to answer the request with; None to pass it on."""
        with self._lock:
            if request in self._failed:
                self._failed.remove(request)
                return None
            self._failed.add(request)
            self.num_faults += 1
            return next(self._faults)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def handle_request(self) -> None:
        fault = self.server.fault_for((self.command, self.path))
        if fault == "reset":
            self._reset()
            return
        body = b"".join(self._body())
        if fault is not None:
            self._refuse(fault)
            return
        self._pass_on(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request  # noqa: N815  http.server calls them so

    def log_message(self, *_: object) -> None:
        """Log nothing: the test reads standard error."""

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _refuse(self, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>Please try again.</Message></Error>".encode()
        self._answer(STATUS[code], [("Content-Type", "application/xml")], text)

    def _pass_on(self, body: bytes) -> None:
        server = HTTPConnection(*self.server.target)
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP
        }
        server.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
        answer = server.getresponse()
        self._answer(answer.status, _headers(answer), answer.read())
        server.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _headers(answer: HTTPResponse) -> list[tuple[str, str]]:
    return [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]


@contextmanager
def fault_proxy(endpoint: str) -> Iterator[FaultProxy]:
    """A running proxy in front of `endpoint`, an `http://HOST:PORT`."""
    with FaultProxy(endpoint) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()
