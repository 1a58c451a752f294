"""Turn the log lines of a worker's S3 client into events, because nobody reads a worker's log
during a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.s3 import client


class _Events(logging.Handler):
    def __init__(self, send: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(record.getMessage())


@contextmanager
def store_news(send: Callable[[str], None]) -> Iterator[None]:
    """Pass to `send` each log line about a server that does not answer, within the block."""
    log, handler = logging.getLogger(client.__name__), _Events(send)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
