"""Handle faults of a command's standard streams: closed, on a full disk, or a pipe without a
reader.

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
    """A standard stream. Once its reader has left, as `head` does, further output is dropped.

    If the stream is for results, any other fault raises StoreError. Otherwise it is ignored: a
    training must not fail because its log cannot be written.
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
    """Run `command` with guarded standard streams and return its exit code. Errors are printed to
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
    """Open /dev/null if `fd` is free, so that no file opened later gets this number and is used as
    a stream."""
    try:
        os.fstat(fd)
    except OSError:
        os.open(os.devnull, os.O_RDONLY)  # gets the lowest free number


def _guarded(
    stream: TextIO | None, fd: int, mode_if_closed: int, *, is_for_results: bool
) -> Output:
    """Return `stream` with its faults handled. `mode_if_closed` decides whether writing to a closed
    stream fails or is dropped."""
    if stream is None:
        return Output(os.open(os.devnull, mode_if_closed), is_for_results=is_for_results)
    return Output(
        fd,
        is_for_results=is_for_results,
        encoding=stream.encoding,
        errors=stream.errors or "strict",
    )
