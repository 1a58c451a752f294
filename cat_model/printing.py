"""Exit code of a command whose stdout is closed, full, or a pipe without a reader."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

_EXIT_UNWRITABLE = 3


def exit_code_of(command: Callable[[], int]) -> int:
    """Runs `command`, which prints its results last, and returns its exit code; 3 if stdout cannot
    be written.

    A reader that stops early, such as `head`, is not an error.
    """
    if sys.stdout is None:  # writing to it must fail, like writing to any other closed file
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", closefd=False)  # noqa: SIM115  by number
    try:
        exit_code = _code_of(command)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_the_rest()
        return 0
    except OSError as err:
        _drop_the_rest()
        is_closed = err.errno == errno.EBADF
        advice = "it is closed; redirect it, such as >/dev/null"
        reason = advice if is_closed else f"{err.strerror}; write the results elsewhere"
        print(f"error: stdout: cannot be written: {reason}", file=sys.stderr)  # noqa: T201  a command's edge
        return _EXIT_UNWRITABLE
    return exit_code


def _code_of(command: Callable[[], int]) -> int:
    try:
        return command()
    except SystemExit as ended:  # argparse, after the help or a usage error
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)


def _drop_the_rest() -> None:
    """Discard the buffered output: Python would write it at exit, and fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
