"""Show a job's live page until asked to stop: the reader, the board and the server together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.live.access import Access
from orchestrator.live.board import Board
from orchestrator.live.cache import CachedStore
from orchestrator.live.reader import USUAL_PACE, Pace, Reader
from orchestrator.live.server import LiveServer
from orchestrator.report.content import ReportContent
from orchestrator.spec import Job
from orchestrator.store.protocol import Store


async def show_live(
    job: Job,
    store: Store,
    *,
    load_report: Callable[[Store], ReportContent],
    access: Access,
    host: str,
    port: int,
    on_ready: Callable[[int], None],
    stop: asyncio.Event,
    pace: Pace = USUAL_PACE,
) -> None:
    """Serve the page at `host` and `port` until `stop` is set. `on_ready` gets the port.

    Raises MachineError if the address cannot be used. An unreachable store is shown on the page.
    """
    loop = asyncio.get_running_loop()
    crashes: list[BaseException] = []

    def note_crash(err: BaseException) -> None:
        crashes.append(err)
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(stop.set)

    board = Board()
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        cached = CachedStore(store, Path(folder))
        reader = Reader(
            job,
            cached,
            board,
            load_report=lambda: load_report(cached),
            on_crash=note_crash,
            pace=pace,
        )
        reader.start()
        try:
            server = LiveServer(board, access, job.name)
            await server.serve(host, port, on_ready=on_ready, stop=stop)
        finally:
            board.close()
        if crashes:
            raise crashes[0]
