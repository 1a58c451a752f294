"""A proxy in front of an S3 server that makes requests fail, each in one of these ways:

SlowDown       the answer is an error; the server does not get the request
InternalError  the same with another error
reset          the connection is reset; the server does not get the request
lost           the server acts, and then the connection is reset
stall          the server acts, and its answer never arrives
cut            the connection ends after half of the answer
flip           one bit of an object changes on its way to the client
"""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, cycle
from typing import NamedTuple
from urllib.parse import urlsplit

STATUS = {"SlowDown": 503, "InternalError": 500}
QUICK = ("SlowDown", "InternalError", "reset", "lost", "cut", "flip")
"""The faults that the client notices at once."""
FAULTS = (*QUICK, *QUICK, "cut", "flip", "cut", "flip", "stall")
"""Stalls are rare because each takes as long as the client's timeout."""
LONGEST_STALL_S = 300.0
WITH_SHA256 = ("/blobs/", "/manifests/", "/checkpoints/")
"""What a flip is found in. The other records in a store trust the transport, which is TLS."""
HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "keep-alive"})
"""Headers that concern one connection only, in lower case."""


class Request(NamedTuple):
    method: str
    path: str
    """With the query."""

    def may_have(self, fault: str) -> bool:
        """Whether the fault can happen to this request."""
        if fault == "flip":
            return self.method == "GET" and any(part in self.path for part in WITH_SHA256)
        return fault != "cut" or self.method == "GET"


Choice = Callable[[Request], str | None]
"""Chooses the fault of a request; None to pass it on. Called by one thread at a time."""


def each_once(faults: Iterable[str] = QUICK) -> Choice:
    """Fail a request, and pass on the next one with the same method and path.

    So no request fails twice in a row. After `faults` those of QUICK take turns.
    """
    turns, failed = chain(faults, cycle(QUICK)), set[Request]()

    def choose(request: Request) -> str | None:
        if request in failed:
            failed.remove(request)
            return None
        failed.add(request)
        return next(fault for fault in turns if request.may_have(fault))  # others lose their turn

    return choose


def at_random(seed: int, *, share: float, faults: Sequence[str] = FAULTS) -> Choice:
    """Fail a share of the requests, each with a fault drawn at random."""
    draws = random.Random(seed)

    def choose(request: Request) -> str | None:
        fault = draws.choice(faults)
        return fault if draws.random() < share and request.may_have(fault) else None

    return choose


class FaultProxy(ThreadingHTTPServer):
    """A proxy that makes the requests fail that `choose` chooses."""

    daemon_threads = True

    def __init__(self, endpoint: str, choose: Choice) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        target = urlsplit(endpoint)
        assert target.hostname is not None
        assert target.port is not None
        self.target = target.hostname, target.port
        self.faults: Counter[str] = Counter()
        """How often each fault has happened."""
        self.unanswered: list[Request] = []
        """What the server has done without its answer reaching the client."""
        self._choose = choose
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def num_faults(self) -> int:
        return self.faults.total()

    def fault_for(self, request: Request) -> str | None:
        with self._lock:
            return self._choose(request)

    def count(self, fault: str, request: Request) -> None:
        with self._lock:
            self.faults[fault] += 1
            if fault in ("lost", "stall"):
                self.unanswered.append(request)

    def handle_error(self, *_: object) -> None:
        """Ignore that the client has closed a connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def handle_request(self) -> None:
        request = Request(self.command, self.path)
        fault = self.server.fault_for(request)
        if fault == "reset":
            self.server.count(fault, request)
            self._reset()
            return
        body = b"".join(self._body())
        if fault in STATUS:
            self.server.count(fault, request)
            self._refuse(fault)
            return
        status, headers, content = self._pass_on(body)
        if fault == "flip" and not (content and status in (200, 206)):
            fault = None  # only objects are altered, not what the server says about them
        if fault is not None:
            self.server.count(fault, request)
        if fault == "stall":
            self._stall()
        if fault in ("stall", "lost"):
            self._reset()
            return
        if fault == "flip":
            content = _flipped(content)
        self._answer(status, headers, content, is_cut=fault == "cut")

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

    def _stall(self) -> None:
        """Wait until the client gives up and closes the connection."""
        self.connection.settimeout(LONGEST_STALL_S)
        with suppress(OSError):
            self.connection.recv(1)

    def _refuse(self, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>Please try again.</Message></Error>".encode()
        self._answer(STATUS[code], [("Content-Type", "application/xml")], text)

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        server = HTTPConnection(*self.server.target)
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP
        }
        server.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
        answer = server.getresponse()
        content = answer.read()
        server.close()
        return answer.status, _headers(answer), content

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, *, is_cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if is_cut else body)
        if is_cut:
            self.close_connection = True


def _headers(answer: HTTPResponse) -> list[tuple[str, str]]:
    return [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@contextmanager
def fault_proxy(endpoint: str, choose: Choice | None = None) -> Iterator[FaultProxy]:
    """A running proxy in front of `endpoint`, an `http://HOST:PORT`.

    By default it fails each request once.
    """
    with FaultProxy(endpoint, choose or each_once()) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
