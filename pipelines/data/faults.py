"""Gathers what is wrong with a data set, to report it in one error. Imports no torch."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from orchestrator.errors import DataError, escaped

NUM_NAMED = 10
"""Entries named of each kind of fault; there may be a million."""


class DataFaults:
    """Kinds of faults in the order in which they were found, each with its number of entries and
    the first of them."""

    def __init__(self, where: object) -> None:
        """`where` is the file or folder that has the faults."""
        self._where = where
        self._texts: list[str] = []

    def add(self, what: str, rows: Sequence[int], name: Callable[[int], str]) -> None:
        """`rows` are the `what` ("boxes outside"); `name` words one of them, and is asked for the
        first few only."""
        if len(rows):
            self._texts.append(
                f"{len(rows)} {what}: "
                f"{first_named((name(int(row)) for row in rows[:NUM_NAMED]), len(rows))}"
            )

    def say(self, text: str) -> None:
        """A fault of the whole."""
        self._texts.append(text)

    def __bool__(self) -> bool:
        return bool(self._texts)

    def raise_any(self, remedy: str) -> None:
        """Raises DataError with all of them, a line each where there are several, and what to do
        about them."""
        if self._texts:
            gap = " " if len(self._texts) == 1 else "\n  "
            raise DataError(f"{self._where}:{gap}{(';' + gap).join(self._texts)};{gap}{remedy}")


def first_named(names: Iterable[str], num: int | None = None) -> str:
    """The first of `names` and how many more there are, for an error's text; "none" where there are
    none.

    `num` is how many they are in all, where `names` are worded one by one as they are needed.
    """
    if num is None:
        names = list(names)
        num = len(names)
    shown = list(islice(names, NUM_NAMED))
    return (
        ", ".join(shown) + (f" and {num - len(shown)} more" if num > len(shown) else "") or "none"
    )


@contextmanager
def data_errors(location: object) -> Iterator[None]:
    """Makes a DataError of any OSError: it names the file, or `location` where the error names
    none."""
    try:
        yield
    except OSError as err:
        raise DataError(
            f"{escaped(str(err.filename or location))}: cannot be read: {reason(err)}"
        ) from err


def size_of_file(status: os.stat_result, name: str) -> int:
    """Bytes of a file. Raises DataError for anything else: a pipe or a device would be read
    forever."""
    if not stat.S_ISREG(status.st_mode):
        raise DataError(
            f"{escaped(name)}: neither a file nor a folder; remove it from the data set"
        )
    return status.st_size


def reason(err: OSError) -> str:
    """Why a file cannot be read, in words."""
    is_missing = isinstance(err, FileNotFoundError) and isinstance(err.filename, str | os.PathLike)
    if is_missing and os.path.islink(err.filename):  # noqa: PTH114  the name may be either
        return f"a symbolic link to {escaped(str(os.readlink(err.filename)))}, which does not exist"  # noqa: PTH115
    return err.strerror or str(err) or type(err).__name__
