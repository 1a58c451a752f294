"""Runs part of a test as a user without privileges and without an entry in the password file,
because tests may run as root."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

USER_ID = 54_321


def as_foreign_user(call: Callable[[], str]) -> str:
    """The result of `call`, or the text of its error, in a separate process."""
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.SimpleQueue[str] = context.SimpleQueue()

    def answer() -> None:
        os.setgroups([])
        os.setgid(USER_ID)
        os.setuid(USER_ID)
        try:
            answers.put(call())
        except Exception as err:  # noqa: BLE001  the test looks at it
            answers.put(f"{type(err).__name__}: {err}")

    process = context.Process(target=answer)
    process.start()
    found = answers.get()
    process.join()
    return found


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach and write; only its owner can reach pytest's folders."""
    folder = Path(tempfile.mkdtemp(prefix="foreign-"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
