"""Text of data sets: decodes files, and refuses text and names of files that are not UTF-8. Imports
no torch."""

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
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def load_text(path: Path) -> str:
    """Text of a file; raises DataError, which names it, where it cannot be read or is not text."""
    with data_errors(path):
        content = path.read_bytes()
    return decode_text(content, str(path))


def load_text_if_there(path: Path) -> str | None:
    """Likewise, or None where nothing has that name; a symbolic link to nothing is a fault."""
    return load_text(path) if os.path.lexists(path) else None


def decode_text(content: bytes, where: str) -> str:
    """Text of UTF-8 with or without a byte-order mark, or of UTF-16 or UTF-32 with one.

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
    """Python's name of the encoding of the byte-order mark; None without one."""
    return next((encoding for mark, encoding in _MARKS if content.startswith(mark)), None)


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError or RecursionError where it is not JSON, or has
    characters that no UTF-8 text can hold."""
    value = json.loads(text)
    if _ESCAPED_SURROGATE.search(text) and not is_utf8(json.dumps(value, ensure_ascii=False)):
        raise ValueError(
            "half of a surrogate pair is not a character: correct the escapes \\ud800 to \\udfff"
        )
    return value


def check_names(where: object, names: Sequence[str]) -> None:
    """Raises DataError, with the first of them, unless all names of files are UTF-8.

    Fingerprints, indexes, tables and reports are UTF-8 and cannot name such files.
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
