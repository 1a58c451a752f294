"""The standard streams of a command: closed, on a full disk, or a pipe whose reader has left.

It does not know what is written to them.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from orchestrator.errors import OrchestratorError, StoreError


class Output(io.TextIOWrapper):
    """A standard stream. After its reader left, as `head` does, what is written to it goes nowhere.

    Another fault raises StoreError where the stream is for results. Elsewhere it changes nothing:
    a training does not end because its log cannot be written.
    """

    has_reader = True

    def __init__(
        self, fd: int, *, is_for_results: bool, encoding: str = "utf-8", errors: str = "strict"
    ) -> None:
        buffer = io.BufferedWriter(io.FileIO(fd, "w", closefd=False))
        is_terminal = os.isatty(fd)
        super().__init__(buffer, encoding, errors, line_buffering=is_terminal or not is_for_results)
        self._is_for_results = is_for_results

    def write(self, text: str, /) -> int:
        with self._guarded():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._guarded():
            super().flush()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.has_reader = False
            self._drop_the_rest()
        except OSError as err:
            self._drop_the_rest()
            if self._is_for_results:
                raise StoreError(f"stdout: cannot be written: {_reason(err)}") from err

    def _drop_the_rest(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def _reason(err: OSError) -> str:
    if err.errno == errno.EBADF:
        return "it is closed; redirect it, such as >/dev/null"
    return f"{err.strerror}; write the results elsewhere"


def exit_code_of(command: Callable[[], int]) -> int:
    """The exit code of `command`, run with guarded standard streams. Errors are printed to
    stderr."""
    _guard_streams()
    try:
        exit_code = _code_of(command)
        sys.stdout.flush()
    except OrchestratorError as err:
        print(f"error: {err}", file=sys.stderr)  # noqa: T201  a command's edge
        exit_code = err.exit_code
    return exit_code


def _code_of(command: Callable[[], int]) -> int:
    try:
        return command()
    except SystemExit as ended:  # argparse, after the help or a usage error
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)


def _guard_streams() -> None:
    for fd in range(3):
        _occupy(fd)
    sys.stdout = _guarded(sys.stdout, 1, os.O_RDONLY, is_for_results=True)
    sys.stderr = _guarded(sys.stderr, 2, os.O_WRONLY, is_for_results=False)


def _occupy(fd: int) -> None:
    """Put something at a number that is free, so that no file that is opened later is written to as
    a stream."""
    try:
        os.fstat(fd)
    except OSError:
        os.open(os.devnull, os.O_RDONLY)  # the lowest free number is taken


def _guarded(
    stream: TextIO | None, fd: int, mode_if_closed: int, *, is_for_results: bool
) -> Output:
    """`stream` with its faults handled. One that was closed fails on writing, or drops what is
    written, by its mode."""
    if stream is None:
        return Output(os.open(os.devnull, mode_if_closed), is_for_results=is_for_results)
    return Output(
        fd,
        is_for_results=is_for_results,
        encoding=stream.encoding,
        errors=stream.errors or "strict",
    )
