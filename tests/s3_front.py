"""A server in front of the tests' S3 server: answers some requests itself, passes on the others."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Answer(NamedTuple):
    """A response of the front itself, instead of the server behind it."""

    status: int
    content: bytes = b""
    headers: Mapping[str, str] = {}


def refusal(
    status: int, code: str, message: str = "", *, headers: Mapping[str, str] = {}, **fields: str
) -> Answer:
    """An error response in the format of S3."""
    parts = {"Code": code, "Message": message or f"the message of {code}", **fields}
    body = "".join(f"<{name}>{text}</{name}>" for name, text in parts.items())
    return Answer(status, f"<Error>{body}</Error>".encode(), headers)


@dataclass
class Front:
    """A running front."""

    url: str
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each request received."""


@contextmanager
def front(
    answer: Callable[[str, str, Mapping[str, str]], Answer | None],
    *,
    behind: str = "",
    tls_dir: Path | None = None,
    pause_s: float = 0,
    has_date: bool = True,
) -> Iterator[Front]:
    """A running front on this machine.

    `answer` gets method, path and headers; if it returns None, the request goes to `behind`. With
    `tls_dir` the front uses TLS, and writes its certificate to `cert.pem` there. It waits for
    `pause_s` before it reads the content of a request, as if the network were slow.
    Without `has_date`, its answers do not say when they were made.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            running.requests.append((self.command, self.path))
            time.sleep(pause_s)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            said = answer(self.command, self.path, dict(self.headers)) or self._passed_on(content)
            if has_date:
                self.send_response(said.status)
            else:
                self.send_response_only(said.status)
            for name, value in {
                "Content-Length": str(len(said.content)),
                "Connection": "close",
                **said.headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(said.content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_CONNECT = _serve  # noqa: N815

        def _passed_on(self, content: bytes) -> Answer:
            server = http.client.HTTPConnection(behind.removeprefix("http://"))
            server.request(self.command, self.path, content, dict(self.headers))
            response = server.getresponse()
            # send_response() adds a date and a server of its own.
            own = ("connection", "date", "server")
            headers = {
                name: value for name, value in response.getheaders() if name.lower() not in own
            }
            return Answer(response.status, response.read(), headers)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Ignore errors: in some tests the client gives up on purpose."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls_dir is not None:
        _speak_tls(server, tls_dir)
    scheme = "http" if tls_dir is None else "https"
    running = Front(f"{scheme}://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _speak_tls(server: ThreadingHTTPServer, folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the authority of a test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(exist_ok=True)
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem, pkcs8, plain = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
