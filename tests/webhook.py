"""A receiver of webhooks on 127.0.0.1 that answers as a test wants and keeps what it was sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "T0ken-that-nobody-may-see"


@dataclass
class Receiver:
    """`answers` are the status codes of the first requests; later ones get the last of them.
    `None` never answers."""

    answers: tuple[int | None, ...]
    url: str = ""
    bodies: list[Any] = field(default_factory=list)
    """The JSON of each request, in order."""
    paths: list[str] = field(default_factory=list)
    end: threading.Event = field(default_factory=threading.Event)

    @property
    def texts(self) -> list[str]:
        return [body["text"] for body in self.bodies]


@contextmanager
def receiving(*answers: int | None) -> Iterator[Receiver]:
    """Yield a receiver. Its path contains SECRET."""
    receiver = Receiver(answers or (200,))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            number = len(receiver.paths)
            receiver.paths.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.bodies.append(json.loads(body))
            code = receiver.answers[min(number, len(receiver.answers) - 1)]
            if code is None:
                receiver.end.wait()
                return
            self.send_response(code)
            if code in range(300, 400):
                self.send_header("Location", f"{receiver.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            """Note a redirect that was followed."""
            receiver.paths.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Write no line for each request."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_port}/{SECRET}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.end.set()
        server.shutdown()
        thread.join()
        server.server_close()


def unused_url() -> str:
    """A URL on which nothing listens."""
    with receiving() as receiver:
        return receiver.url
