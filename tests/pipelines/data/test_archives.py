"""Archives as tools of every system write them, and the errors for archives that hold something
else."""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from orchestrator.errors import DataError
from pipelines.data.archives import unpack
from pipelines.data.listing import PIECES, RemoteListing

COCO = RemoteListing("s3://bucket/coco", "coco", ())


def unpacked(archive: Path, to: Path) -> list[str]:
    unpack(archive, f"s3://bucket/coco/{archive.name}", to, COCO.wanted, needed=COCO.needed)
    return sorted(path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file())


def zipped(folder: Path, *names: str) -> Path:
    with zipfile.ZipFile(folder / "made.zip", "w") as made:
        for name in names:
            made.writestr(name, b"" if name.endswith(("/", "\\")) else b"pixels")
    return folder / "made.zip"


def renamed(archive: Path, name: str, raw: bytes, *, is_utf8: bool = False) -> Path:
    """The archive with that name replaced by as many other bytes, which may be in any encoding."""
    content = archive.read_bytes().replace(name.encode(), raw)
    if is_utf8:
        for sign, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            at = content.index(sign) + place
            content = content[:at] + struct.pack("<H", 0x800) + content[at + 2 :]
    archive.write_bytes(content)
    return archive


def test_backslashes_of_windows_tools_are_separators(tmp_path: Path) -> None:
    archive = zipped(
        tmp_path,
        "coco\\",
        "coco\\val2017\\",
        "coco\\val2017\\a.jpg",
        "coco\\annotations\\instances_val2017.json",
    )
    assert unpacked(archive, tmp_path / "to") == [
        "annotations/instances_val2017.json",
        "val2017/a.jpg",
    ]
    assert (tmp_path / "to/val2017/a.jpg").read_bytes() == b"pixels"


def test_folders_and_links_of_a_zip_are_not_files(tmp_path: Path) -> None:
    folder, link = zipfile.ZipInfo("val2017\\sub"), zipfile.ZipInfo("val2017/link.jpg")
    folder.external_attr, link.external_attr = 0x10, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as made:
        made.writestr(folder, b"")
        made.writestr(link, b"sub/a.jpg")
        made.writestr("val2017\\sub\\a.jpg", b"pixels")
    assert unpacked(tmp_path / "made.zip", tmp_path / "to") == ["val2017/sub/a.jpg"]


@pytest.mark.parametrize(
    "name", ["val2017\\..\\..\\x.jpg", "val2017/../../x.jpg", "val2017/..\\..\\x.jpg"]
)
def test_path_outside_is_refused_for_any_separator(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"made\.zip: the archive has a path outside itself"):
        unpacked(zipped(tmp_path, name), tmp_path / "to")


def test_files_added_by_macos_are_ignored(tmp_path: Path) -> None:
    names = [
        "val2017/a.jpg",
        "__MACOSX/val2017/._a.jpg",
        "val2017/.DS_Store",
        "val2017/._a.jpg",
        "__MACOSX/val2017/b.jpg",
    ]
    assert unpacked(zipped(tmp_path, *names), tmp_path / "to") == ["val2017/a.jpg"]


def test_error_lists_the_content_of_an_unrelated_archive(tmp_path: Path) -> None:
    archive = zipped(
        tmp_path, "set/images/a.jpg", "set/images/b.jpg", "C:\\data\\val2017\\a.jpg", "readme.txt"
    )
    text = (
        r"made\.zip: the archive holds no file of the data set \(found: C:/data/val2017/ "
        r"\(1 file\), readme\.txt, set/images/ \(2 files\)\); it must hold train2017/, "
        r"annotations/instances_train2017\.json, "
        r"val2017/, "
    )
    with pytest.raises(DataError, match=text):
        unpacked(archive, tmp_path / "to")


def test_empty_archive_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"holds no file of the data set \(found: no files\); it must hold"
    ):
        unpacked(zipped(tmp_path), tmp_path / "to")


def test_utf8_names_do_not_need_the_flag(tmp_path: Path) -> None:
    archive = renamed(zipped(tmp_path, "val2017/cafXX.jpg"), "cafXX", "café".encode())
    assert unpacked(archive, tmp_path / "to") == ["val2017/café.jpg"]


@pytest.mark.parametrize("raw", [b"caf\x82", b"caf\xe9"])
def test_names_in_another_encoding_are_reported(tmp_path: Path, raw: bytes) -> None:
    """Code page 437, from Windows zips, or Latin-1: nothing in the archive says which."""
    archive = renamed(zipped(tmp_path, "val2017/cafX.jpg"), "cafX", raw)
    text = (
        r"made\.zip: the archive has a file name that is not UTF-8: "
        rf"val2017/caf\\x{raw[-1]:x}\.jpg; "
        r"rename the file"
    )
    with pytest.raises(DataError, match=text):
        unpacked(archive, tmp_path / "to")


def test_name_with_a_wrong_utf8_flag_is_reported(tmp_path: Path) -> None:
    archive = renamed(zipped(tmp_path, "val2017/cafX.jpg"), "cafX", b"caf\xe9", is_utf8=True)
    with pytest.raises(
        DataError, match=r"made\.zip: the archive cannot be unpacked: 'utf-8' codec can't decode"
    ):
        unpacked(archive, tmp_path / "to")


def test_names_in_a_tar_that_are_not_utf8_are_reported(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "made.tar", "w") as made:
        made.addfile(tarfile.TarInfo(os.fsdecode(b"./val2017/caf\xe9.jpg")), io.BytesIO())
    with pytest.raises(
        DataError,
        match=r"made\.tar: the archive has a file name that is not UTF-8: val2017/caf\\xe9\.jpg",
    ):
        unpacked(tmp_path / "made.tar", tmp_path / "to")


def test_every_layout_names_what_it_needs() -> None:
    for layout in PIECES:
        assert RemoteListing("s3://bucket", layout, ()).needed


def test_damaged_bz2_data_are_reported(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "made.zip", "w", zipfile.ZIP_BZIP2) as made:
        made.writestr("val2017/a.jpg", b"pixels")
    content = (tmp_path / "made.zip").read_bytes()
    (tmp_path / "made.zip").write_bytes(content.replace(b"BZh9", b"BZx9"))
    with pytest.raises(
        DataError,
        match=r"made\.zip: the archive cannot be unpacked: Invalid data stream; upload it",
    ):
        unpacked(tmp_path / "made.zip", tmp_path / "to")
