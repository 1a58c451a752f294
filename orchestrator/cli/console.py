"""Output to the user: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, NoReturn

from pydantic import JsonValue
from rich.console import Console

from orchestrator.streams import Output

PIPED_WIDTH = 120
"""Columns of output without a terminal: wide enough for all tables."""
_STDOUT, _STDERR = 1, 2


@contextmanager
def reserved_stdout() -> Iterator[Output]:
    """Yield the real stdout as a stream. Within the block, output of libraries and child processes
    to stdout goes to stderr."""
    sys.stdout.flush()
    with Output(os.dup(sys.stdout.fileno()), is_for_results=True) as stream:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        sys.stdout = sys.stderr
        yield stream


def make_console(stream: IO[str]) -> Console:
    return Console(file=stream, width=None if stream.isatty() else PIPED_WIDTH, highlight=False)


def print_json(stream: IO[str], document: JsonValue) -> None:
    stream.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    stream.flush()


def say_last(text: str) -> None:
    """Print the last line of the log. Later output of this process, such as of Ray's C++, is
    dropped."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.dup(_STDERR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (_STDOUT, _STDERR):  # since `reserved_stdout`, stdout is part of the log, too
        os.dup2(nowhere, stream)
    os.close(nowhere)
    # A log that cannot be written, or has no reader, does not change the exit code.
    with (
        suppress(OSError),
        os.fdopen(log, "w", encoding="utf-8", errors="backslashreplace") as last,
    ):
        last.write(f"{text}\n")


def end(exit_code: int) -> NoReturn:
    """Exit at once: threads of an interrupted run may still wait for their workers."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
