"""The web server of the live page: `/` is the page, `/updates` what changed since a version.

The page asks every 2 s. Short requests pass every proxy, survive the sleep of a laptop, and leave
open none of the six connections that a browser has for a host.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from orchestrator.errors import MachineError
from orchestrator.live.access import Access
from orchestrator.live.board import Board
from orchestrator.report.page import make_environment, make_policy, resource

SHUTDOWN_S = 1.0
"""How long an answer that is under way may still take when the server ends."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_ENTER = '<!doctype html><meta http-equiv="refresh" content="0; url=./"><title>Welcome</title>'


def _is_loggable(record: logging.LogRecord) -> bool:
    """Whether the record is of a defect. A malformed request's text may have the token."""
    err = record.exc_info[1] if record.exc_info else None
    return type(err).__module__ != "aiohttp.http_exceptions"


_LOG = logging.getLogger(f"{__name__}.requests")
_LOG.addFilter(_is_loggable)


@dataclass(frozen=True)
class LiveServer:
    """Answers requests from the board."""

    board: Board
    access: Access
    job: str

    async def serve(
        self, host: str, port: int, *, on_ready: Callable[[int], None], stop: asyncio.Event
    ) -> None:
        """Serve until `stop` is set. Calls `on_ready` with the port. Raises MachineError."""
        runner = web.AppRunner(
            self._make_app(), access_log=None, logger=_LOG, shutdown_timeout=SHUTDOWN_S
        )
        await runner.setup()
        try:
            listening = _listen(host, port)
            await web.SockSite(runner, listening).start()
            on_ready(listening.getsockname()[1])
            await stop.wait()
        finally:
            await runner.cleanup()

    def _make_app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/", self._show_page),
                web.get("/updates", self._show_updates),
                web.get("/health", self._show_health),
            ]
        )
        app.on_response_prepare.append(self._add_headers)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse foreign hosts, other methods than GET and HEAD, and requests without the token."""
        if not self.access.allows_host(request.headers.get("Host", "")):
            text = "This page is only for this machine: open it as localhost or 127.0.0.1.\n"
            return web.Response(status=421, text=text)
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"}, text="Only GET.\n")
        if request.path == "/health":
            return await handler(request)
        if request.path == "/" and "token" in request.query:
            return self._enter(request)
        cookie = request.cookies.get(_cookie_name(request))
        if not self.access.allows(
            authorization=request.headers.get("Authorization"), cookie=cookie
        ):
            return _refuse()
        return await handler(request)

    def _enter(self, request: web.Request) -> web.Response:
        """Exchange the token for a cookie, and leave the address that has the token.

        A browser that comes from another site sends no Strict cookie after a redirect by status
        303, so the page itself leads on.
        """
        if self.access.token is None:
            return web.Response(text=_ENTER, content_type="text/html")
        if not self.access.is_token(request.query["token"]):
            return _refuse()
        response = web.Response(text=_ENTER, content_type="text/html")
        response.set_cookie(
            _cookie_name(request), self.access.cookie, httponly=True, samesite="Strict"
        )
        return response

    async def _show_page(self, request: web.Request) -> web.Response:
        self.board.note_viewer()
        update = self.board.update_since(0)
        response = web.Response(text=make_document(self.job, update), content_type="text/html")
        response.enable_compression()
        return response

    async def _show_updates(self, request: web.Request) -> web.Response:
        self.board.note_viewer()
        server, _, version = request.query.get("since", "").partition(".")
        is_ours = server == self.board.server_id and version.isdecimal()
        update = self.board.update_since(int(version[:18]) if is_ours else 0)
        response = web.json_response(update)
        response.enable_compression()
        return response

    async def _show_health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(HEADERS)
        is_page = response.content_type == "text/html"
        policy = _policy() if is_page else "default-src 'none'"
        response.headers["Content-Security-Policy"] = f"{policy}; frame-ancestors 'none'"


def _refuse() -> web.Response:
    text = "This page needs its token: add ?token=TOKEN to the address once.\n"
    return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"}, text=text)


def _cookie_name(request: web.Request) -> str:
    """Browsers send a cookie to all ports of a host, so each page has a name of its own."""
    _, _, port = request.host.rpartition(":")
    return f"orchestrator_{port}" if port.isdecimal() else "orchestrator"


def make_document(job: str, update: Mapping[str, Any]) -> str:
    """The page with everything that the board has."""
    template = make_environment("orchestrator.live").get_template("live.html.j2")
    return template.render(
        title=job,
        since=f"{update['server']}.{update['version']}",
        sections=update["sections"],
        styles=(resource("page.css"), resource("live.css", "orchestrator.live")),
        scripts=_scripts(),
        policy=_policy(),
    )


def _scripts() -> tuple[str, ...]:
    return resource("page.js"), resource("live.js", "orchestrator.live")


def _policy() -> str:
    more = "; connect-src 'self'; base-uri 'none'; form-action 'none'"
    return make_policy(_scripts(), more=more)


def _listen(host: str, port: int) -> socket.socket:
    """A socket at the address. Raises MachineError with what to do."""
    listening = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as err:
        if listening is not None:
            listening.close()
        raise MachineError(f"--host {host} --port {port}: {_advice(err)}") from err
    return listening


def _advice(err: OSError) -> str:
    match err.errno:
        case errno.EADDRINUSE:
            return "another program uses this port; choose another one, or --port 0 for any"
        case errno.EACCES:
            return "only root may use this port; choose one above 1023, or --port 0 for any"
        case _:
            return f"this machine cannot listen there: {err.strerror}"
