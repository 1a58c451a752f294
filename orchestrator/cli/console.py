"""What the user sees: stdout for results, stderr for progress and errors."""

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
"""Columns where there is no terminal to ask: wide enough for all our tables."""
_STDOUT, _STDERR = 1, 2


@contextmanager
def reserved_stdout() -> Iterator[Output]:
    """The real stdout as a stream; meanwhile all that libraries and child processes print there
    goes to stderr."""
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
    """Print the last line of the log: what else this process says after it, as Ray's C++ does, is
    dropped."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.dup(_STDERR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (_STDOUT, _STDERR):  # stdout, too, has been the log since `reserved_stdout`
        os.dup2(nowhere, stream)
    os.close(nowhere)
    # A log that cannot be written, or that nobody reads any more, changes nothing about how the
    # command ends.
    with (
        suppress(OSError),
        os.fdopen(log, "w", encoding="utf-8", errors="backslashreplace") as last,
    ):
        last.write(f"{text}\n")


def end(exit_code: int) -> NoReturn:
    """End at once: threads of an interrupted run may still wait for their workers."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
