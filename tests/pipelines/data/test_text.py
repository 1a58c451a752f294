"""Text of data files in every encoding that editors write, and names that are not UTF-8."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.errors import DataError
from pipelines.data.text import check_names, decode_text, load_text, load_text_if_there, parse_json

TEXT = "café\nstraße\n日本\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_with_or_without_a_mark_is_the_same(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT.encode(encoding))
    assert load_text(tmp_path / "a.txt") == TEXT


def test_big_endian_text_with_a_mark_is_the_same() -> None:
    assert decode_text(b"\xfe\xff" + TEXT.encode("utf-16-be"), "a.txt") == TEXT


FAULTS = {
    "latin-1": (
        "one\ncaf\xe9\n".encode("latin-1"),
        r"a\.txt:2: not UTF-8 text: .* at the byte 0xe9; save the file as",
    ),
    "cut UTF-16": (TEXT.encode("utf-16")[:-1], r"a\.txt:\d+: not UTF-16 text: truncated data"),
    "UTF-16 without a mark": (
        "abc".encode("utf-16-le"),
        r"a\.txt: holds NUL characters: .* byte-order mark; save it",
    ),
    "no text": (b"\x89PNG\r\n", r"a\.txt:1: not UTF-8 text: .* at the byte 0x89"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_other_encodings_are_reported_with_line_and_remedy(name: str) -> None:
    content, text = FAULTS[name]
    with pytest.raises(DataError, match=text):
        decode_text(content, "a.txt")


def test_missing_file_gives_none_but_broken_link_raises(tmp_path: Path) -> None:
    assert load_text_if_there(tmp_path / "a.txt") is None
    (tmp_path / "a.txt").symlink_to("gone.txt")
    with pytest.raises(
        DataError,
        match=r"a\.txt: cannot be read: a symbolic link to gone\.txt, which does not exist",
    ):
        load_text_if_there(tmp_path / "a.txt")


def test_file_names_that_are_not_utf8_are_listed_by_bytes() -> None:
    check_names("folder", ["a.jpg", "日本.jpg"])
    names = [os.fsdecode(b"caf\xe9.jpg"), "a.jpg", os.fsdecode(b"\xff.jpg"), "\ud800.jpg"]
    text = (
        r"folder: file names that are not UTF-8: caf\\xe9\.jpg, \\xff\.jpg, \\ud800\.jpg; "
        r"rename these files"
    )
    with pytest.raises(DataError, match=text):
        check_names("folder", names)


def test_json_with_half_a_surrogate_pair_is_refused() -> None:
    """Such text cannot be written again, and Python would use such a name to open a file whose name
    is not UTF-8."""
    assert parse_json('["\\ud83d\\ude00", "\\u00e9"]') == ["😀", "é"]
    with pytest.raises(ValueError, match=r"half of a surrogate pair is not a character"):
        parse_json('["caf\\udce9.jpg"]')
