"""Collects the faults of a data set, to report them in one error. Imports no torch."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from orchestrator.errors import DataError, escaped

NUM_NAMED = 10
"""Number of entries named for each kind of fault; there may be a million."""


class DataFaults:
    """Kinds of faults in the order found, each with its number of entries and the first of them."""

    def __init__(self, where: object) -> None:
        """`where` is the file or folder with the faults."""
        self._where = where
        self._texts: list[str] = []

    def add(self, what: str, rows: Sequence[int], name: Callable[[int], str]) -> None:
        """Add a kind of fault: `what` describes it ("boxes outside"), `rows` are its entries, and
        `name` describes one entry. Only the first few are named."""
        if len(rows):
            self._texts.append(
                f"{len(rows)} {what}: "
                f"{first_named((name(int(row)) for row in rows[:NUM_NAMED]), len(rows))}"
            )

    def say(self, text: str) -> None:
        """Add a fault of the data set as a whole."""
        self._texts.append(text)

    def __bool__(self) -> bool:
        return bool(self._texts)

    def raise_any(self, remedy: str) -> None:
        """Raises DataError with all faults, one line each if there are several, and `remedy`."""
        if self._texts:
            gap = " " if len(self._texts) == 1 else "\n  "
            raise DataError(f"{self._where}:{gap}{(';' + gap).join(self._texts)};{gap}{remedy}")


def first_named(names: Iterable[str], num: int | None = None) -> str:
    """The first of `names` and how many more there are, as text for an error; "none" if there are
    none.

    `num` is their total number, for `names` that are generated one by one.
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
    """Turns any OSError into a DataError that names its file, or `location` if the error names
    none."""
    try:
        yield
    except OSError as err:
        raise DataError(
            f"{escaped(str(err.filename or location))}: cannot be read: {reason(err)}"
        ) from err


def size_of_file(status: os.stat_result, name: str) -> int:
    """Size of a file in bytes. Raises DataError for anything but a regular file: reading a pipe or
    a device could block forever."""
    if not stat.S_ISREG(status.st_mode):
        raise DataError(
            f"{escaped(name)}: neither a file nor a folder; remove it from the data set"
        )
    return status.st_size


def reason(err: OSError) -> str:
    """Why a file cannot be read, as text."""
    is_missing = isinstance(err, FileNotFoundError) and isinstance(err.filename, str | os.PathLike)
    if is_missing and os.path.islink(err.filename):  # noqa: PTH114  the name may be str or a path
        return f"a symbolic link to {escaped(str(os.readlink(err.filename)))}, which does not exist"  # noqa: PTH115
    return err.strerror or str(err) or type(err).__name__
