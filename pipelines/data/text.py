"""Decodes text files of data sets, and refuses text and file names that are not UTF-8. Imports no
torch."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import DataError, escaped
from pipelines.data.faults import data_errors, first_named

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before the mark of UTF-16, which is its beginning
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def load_text(path: Path) -> str:
    """The text of a file; raises DataError with its name if it cannot be read or is not text."""
    with data_errors(path):
        content = path.read_bytes()
    return decode_text(content, str(path))


def load_text_if_there(path: Path) -> str | None:
    """Like `load_text`, but None if the name does not exist; a broken symbolic link is an error."""
    return load_text(path) if os.path.lexists(path) else None


def decode_text(content: bytes, where: str) -> str:
    """Decodes UTF-8 with or without a byte-order mark, or UTF-16 or UTF-32 with one.

    The mark is not part of the text. Raises DataError, which calls the file `where`, for anything
    else.
    """
    encoding = encoding_of(content)
    try:
        text = content.decode(encoding or "utf-8")
    except UnicodeDecodeError as err:
        line = content.count(b"\n", 0, err.start) + 1
        name = (encoding or "utf-8").removesuffix("-sig").upper()
        raise DataError(
            f"{where}:{line}: not {name} text: {err.reason} at the byte "
            f"0x{content[err.start]:02x}; save the file as "
            f"UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
        ) from err
    if "\0" in text:
        raise DataError(
            f"{where}: holds NUL characters: not a text file, or UTF-16 without a byte-order mark; "
            "save it as UTF-8"
        )
    return text


def encoding_of(content: bytes) -> str | None:
    """Python's name for the encoding of the byte-order mark; None without a mark."""
    return next((encoding for mark, encoding in _MARKS if content.startswith(mark)), None)


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError or RecursionError if it is not JSON or has
    characters that UTF-8 cannot encode."""
    value = json.loads(text)
    if _ESCAPED_SURROGATE.search(text) and not is_utf8(json.dumps(value, ensure_ascii=False)):
        raise ValueError(
            "half of a surrogate pair is not a character: correct the escapes \\ud800 to \\udfff"
        )
    return value


def check_names(where: object, names: Sequence[str]) -> None:
    """Raises DataError, with the first wrong names, unless all file names are UTF-8.

    Fingerprints, indexes, tables and reports are UTF-8 and cannot contain other names.
    """
    if is_utf8("\n".join(names)):
        return
    wrong = [escaped(name) for name in names if not is_utf8(name)]
    raise DataError(
        f"{where}: file names that are not UTF-8: {first_named(wrong)}; rename these files, "
        "for example: convmv -f LATIN1 -t UTF-8 --notest -r FOLDER"
    )


def is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
