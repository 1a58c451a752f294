"""The verb dashboard: a job's report in a browser, which follows the run."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from argparse import Namespace
from typing import IO

from orchestrator.cli.job import load
from orchestrator.cli.report import load_content
from orchestrator.report.content import ReportContent
from orchestrator.store import Store, open_store

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - names, not a choice


def dashboard(arguments: Namespace, stdout: IO[str]) -> int:
    """Serve the page until Ctrl-C or SIGTERM, which are its normal end."""
    # aiohttp and Jinja2 take half a second to import, which other verbs do not need.
    from orchestrator.live.access import TOKEN_VARIABLE, make_access  # noqa: PLC0415
    from orchestrator.live.show import show_live  # noqa: PLC0415

    job = load(arguments)
    store = open_store(job.store)
    access = make_access(
        arguments.host, token_file=arguments.token_file, token=os.environ.get(TOKEN_VARIABLE)
    )

    def print_address(port: int) -> None:
        ask = "; it asks for the token" if access.token else ""
        stdout.write(f"{job.name}: {_url(arguments.host, port)}{ask}. Ctrl-C ends it.\n")
        stdout.flush()

    def load_report(store: Store) -> ReportContent:
        return load_content(arguments, job, store, has_history=True)

    async def serve() -> None:
        stop = asyncio.Event()
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        await show_live(
            job,
            store,
            load_report=load_report,
            access=access,
            host=arguments.host,
            port=arguments.port,
            on_ready=print_address,
            stop=stop,
        )

    asyncio.run(serve())
    return 0


def _url(host: str, port: int) -> str:
    name = socket.gethostname() if host in WILDCARDS else host
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
