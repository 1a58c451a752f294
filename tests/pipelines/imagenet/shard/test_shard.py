"""Invalid shards: each error names the shard and says what to do."""

from __future__ import annotations

import errno
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import DataError, UnreachableError
from pipelines.data.s3 import DataBucket
from pipelines.imagenet.layouts import fingerprint, load_classes, open_images
from pipelines.imagenet.shard.location import FolderLocation
from tests.pipelines.imagenet.shard.conftest import ShardSummary


def classes_of(place: str | Path) -> tuple[str, ...]:
    return load_classes(open_images(str(place)), num_classes=None)


def put_tar(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


GOOD = {
    "a.jpg": b"a",
    "a.cls": b"0",
    "b.jpg": b"b",
    "b.json": b'{"label": 1}',
    "b.txt": b"a caption",
}


@pytest.fixture
def foreign(tmp_path: Path, caches: Path) -> Path:
    """Shards from another program, without an index."""
    for name in ("train/000.tar", "val/000.tar"):
        put_tar(tmp_path / "foreign" / name, GOOD)
    return tmp_path / "foreign"


def test_foreign_shards_are_scanned_once(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_images(str(foreign)).source("train", ("0", "1"))
    assert list(source.names) == ["train/000.tar/a.jpg", "train/000.tar/b.jpg"]
    assert [source.read(place) for place in range(2)] == [b"a", b"b"]
    assert list(source.labels) == [0, 1]
    before = fingerprint(str(foreign), num_classes=2)
    monkeypatch.setattr("pipelines.imagenet.shard.files.make_index", None)
    assert fingerprint(str(foreign), num_classes=2) == before


def test_unlockable_cache_is_named(
    foreign: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(
        DataError, match=r"indices: cannot be .*: No locks available; set XDG_CACHE_HOME"
    ):
        fingerprint(str(foreign), num_classes=2)


def test_index_of_read_only_shards_is_kept_in_the_cache(
    foreign: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = FolderLocation.write

    def refuse(self: FolderLocation, name: str, content: bytes) -> None:
        if self.root == foreign:
            raise DataError("Read-only file system")
        write(self, name, content)

    monkeypatch.setattr(FolderLocation, "write", refuse)
    before = fingerprint(str(foreign), num_classes=2)
    assert not (foreign / "index.json").exists()
    assert len(list(caches.glob("indices/*.json"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.imagenet.shard.files.make_index", None)
        assert fingerprint(str(foreign), num_classes=2) == before
    put_tar(foreign / "train/000.tar", {**GOOD, "a.jpg": b"c"})
    assert fingerprint(str(foreign), num_classes=2) != before


def test_foreign_shards_may_name_their_classes(foreign: Path) -> None:
    (foreign / "classes.txt").write_text("cat\ndog\n")
    assert classes_of(foreign) == ("cat", "dog")


TARS: dict[str, tuple[Mapping[str, bytes], str]] = {
    "no label": (
        {**GOOD, "c.png": b"c"},
        r"000\.tar: images without a label: c\.png; each needs <key>\.cls or",
    ),
    "label is text": (
        {**GOOD, "a.cls": b"cat"},
        r"000\.tar/a\.cls: holds no label; a label is an integer from 0 to",
    ),
    "label is negative": ({**GOOD, "a.cls": b"-1"}, r"000\.tar/a\.cls: holds no label"),
    "json without label": ({**GOOD, "b.json": b"{}"}, r"000\.tar/b\.json: holds no label"),
    "two images": (
        {**GOOD, "a.png": b"c"},
        r"000\.tar: two images have the key a: a\.jpg and a\.png",
    ),
    "no image": (
        {"a.cls": b"0"},
        r"foreign: holds no images of train; put its shards in train/\*\.tar or train-\*",
    ),
    "one class": (
        {"a.jpg": b"a", "a.cls": b"0"},
        r"different classes; only in train: none; only in val: 1",
    ),
    "a class is empty": ({**GOOD, "b.json": b'{"label": 2}'}, r"only in train: 2; only in val: 1"),
}


@pytest.mark.parametrize("name", TARS)
def test_faults_of_members_are_reported(foreign: Path, name: str) -> None:
    members, text = TARS[name]
    put_tar(foreign / "train/000.tar", members)
    with pytest.raises(DataError, match=text):
        fingerprint(str(foreign), num_classes=None)


def test_shards_without_an_image_in_either_split_are_reported(foreign: Path) -> None:
    for name in ("train/000.tar", "val/000.tar"):
        put_tar(foreign / name, {"a.txt": b"a caption", "a.cls": b"0"})
    with pytest.raises(
        DataError,
        match=r"foreign: the shards hold no images; add files <key>\.jpg with <key>\.cls$",
    ):
        fingerprint(str(foreign), num_classes=None)


def test_class_missing_from_both_splits_is_reported(foreign: Path) -> None:
    (foreign / "classes.txt").write_text("cat\ndog\ncow\n")
    images = open_images(str(foreign))
    with pytest.raises(DataError, match=r"foreign: train has no images of the classes cow"):
        images.source("train", load_classes(images, num_classes=None))


def test_label_without_a_name_is_reported(foreign: Path) -> None:
    (foreign / "classes.txt").write_text("cat\n")
    with pytest.raises(
        DataError, match=r"000\.tar: label 1 is out of range: .*classes\.txt has 1 classes"
    ):
        classes_of(foreign)


@pytest.mark.parametrize("size", [0, 100, 700, 1024, 1700, 2048])
def test_truncated_tar_file_is_reported(foreign: Path, size: int) -> None:
    """Tests cuts in a header, in a member, and between two members."""
    os.truncate(foreign / "val/000.tar", size)
    with pytest.raises(
        DataError,
        match=r"val/000\.tar: the shard is not a complete tar file: .*; copy or write it again",
    ):
        classes_of(foreign)


def test_file_that_is_not_a_tar_is_reported(foreign: Path) -> None:
    (foreign / "val/000.tar").write_bytes(os.urandom(5000))
    with pytest.raises(DataError, match=r"val/000\.tar: the shard is not a complete tar file"):
        classes_of(foreign)


def test_shards_that_differ_from_the_index_are_named(local: Path) -> None:
    (local / "train-000003.tar").unlink()
    os.truncate(local / "train-000004.tar", 2048)
    (local / "train-000020.tar").write_bytes(b"")
    text = (
        r"index\.json: does not match the shards; missing: train-000003\.tar; not in the index: "
        r"train-000020\.tar; different size: train-000004\.tar; copy the shards again, or write a "
        r"new index: python -m pipelines\.imagenet\.shard --index "
    )
    with pytest.raises(DataError, match=text):
        classes_of(local)


def test_fingerprint_detects_other_bytes_of_the_same_size(local: Path) -> None:
    content = bytearray((local / "val-000001.tar").read_bytes())
    content[513] ^= 1
    (local / "val-000001.tar").write_bytes(content)
    with pytest.raises(
        DataError,
        match=r"index\.json: does not match the bytes of val-000001\.tar; copy them again",
    ):
        fingerprint(str(local), num_classes=2)


def test_index_without_its_shards_is_reported(local: Path) -> None:
    for path in local.glob("*.tar"):
        path.unlink()
    with pytest.raises(
        DataError, match=r"does not match the shards; missing: train-000000\.tar, .* and 15 more"
    ):
        classes_of(local)


def _edited(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document["splits"]["train"][2].update(changes)


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "version": (lambda document: document.update(version=9), "version 9 instead of 1"),
    "no classes": (lambda document: document.pop("classes"), "'classes'"),
    "label": (
        _edited(labels=[0, 1, 2, 0]),
        r"train-000002\.tar: a label is out of range: there are 2 classes",
    ),
    "offset": (
        _edited(offsets=[0, 1, 2, 99999]),
        r"train-000002\.tar: an image lies outside the shard",
    ),
    "lengths": (_edited(sizes=[1]), r"train-000002\.tar: its lists have different lengths"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_index_is_reported(local: Path, name: str) -> None:
    damage, text = DAMAGES[name]
    document = json.loads((local / "index.json").read_text())
    damage(document)
    (local / "index.json").write_text(json.dumps(document))
    with pytest.raises(
        DataError,
        match=rf"index\.json: not a valid shard index: {text}; write a new index: python",
    ):
        classes_of(local)


def test_shard_truncated_while_read_is_reported(local: Path) -> None:
    source = open_images(str(local)).source("train", ("even", "odd"))
    os.truncate(local / "train-000001.tar", 600)
    with pytest.raises(
        DataError,
        match=r"train-000001\.tar: the shard ends before \w+/\d+\.png; copy it there again",
    ):
        source.read(7)
    (local / "train-000002.tar").unlink()
    with pytest.raises(
        DataError,
        match=r"train-000002\.tar: the shard cannot be read: No such file or directory; copy",
    ):
        source.read(8)


def test_folder_in_place_of_a_shard_is_reported(local: Path) -> None:
    source = open_images(str(local)).source("train", ("even", "odd"))
    (local / "train-000002.tar").unlink()
    (local / "train-000002.tar").mkdir()
    with pytest.raises(
        DataError,
        match=r"train-000002\.tar: the shard cannot be read: Is a directory; copy it there again$",
    ):
        source.read(8)


def test_missing_bucket_is_reported(bucket: str) -> None:
    with pytest.raises(
        DataError,
        match=r"s3://bucket-none/x: cannot list: .*bucket does not exist .*; correct the stage's",
    ):
        classes_of("s3://bucket-none/x")


def test_prefix_without_shards_is_reported(bucket: str) -> None:
    with pytest.raises(
        DataError,
        match=r"/nothing: holds no shards; put them in train/\*\.tar or train-\*\.tar",
    ):
        classes_of(f"s3://{bucket}/nothing")


def test_shards_in_s3_without_an_index_are_reported(bucket: str, write: ShardSummary) -> None:
    place = write(f"s3://{bucket}/some")
    DataBucket(place).delete("index.json")
    with pytest.raises(
        DataError,
        match=rf"the shards have no index\.json; write a new index: .*\.shard --index {place}",
    ):
        classes_of(place)


def test_other_objects_next_to_shards_are_ignored(bucket: str, write: ShardSummary) -> None:
    place = write(f"s3://{bucket}/some")
    for name in (
        "train/cat/a.jpg",
        "train/cat/a.tar",
        "trainer.tar",
        "notes.tar",
        "train/.hidden.tar",
    ):
        DataBucket(place).write(name, b"")
    assert classes_of(place) == ("even", "odd")


def test_missing_credentials_are_reported(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with pytest.raises(
        DataError, match=r"cannot list: no credentials for S3; set AWS_ACCESS_KEY_ID and AWS_SECRET"
    ):
        classes_of(f"s3://{bucket}/x")


def test_unreachable_server_is_not_a_data_error(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error type makes the stage retry."""
    monkeypatch.setattr("orchestrator.s3.client.MAX_ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(
        UnreachableError,
        match=r"cannot list: Could not connect .*; check that the server is running",
    ):
        classes_of(f"s3://{bucket}/x")


MACS: Mapping[str, bytes] = {
    "._a.jpg": b"AppleDouble",
    "__MACOSX/._a.jpg": b"AppleDouble",
    "__MACOSX/c.jpg": b"AppleDouble",
    ".DS_Store": b"Finder",
    "PaxHeaders.7/a.jpg": b"30 mtime=1",
    "./PaxHeaders/b.jpg": b"30 mtime=1",
}


def test_members_added_by_macos_or_tar_are_not_images(foreign: Path) -> None:
    before = fingerprint(str(foreign), num_classes=2)
    put_tar(foreign / "train/000.tar", {**MACS, **GOOD})
    (foreign / "index.json").unlink()
    source = open_images(str(foreign)).source("train", ("0", "1"))
    assert list(source.names) == ["train/000.tar/a.jpg", "train/000.tar/b.jpg"]
    assert [source.read(place) for place in range(2)] == [b"a", b"b"]
    assert fingerprint(str(foreign), num_classes=2) != before  # offsets and bytes of the tar


LABELS: dict[str, Mapping[str, bytes]] = {
    "leading zeros": {"a.cls": b"0000", "b.cls": b"0001"},
    "a line's end": {"a.cls": b"0\n", "b.cls": b"0001\r\n"},
    "a mark": {"a.cls": b"\xef\xbb\xbf0", "b.cls": "1".encode("utf-16")},
    "json first": {"a.json": b'{"caption": "x"}', "a.cls": b"0", "b.json": b'{"label": 1}'},
    "json last": {"a.cls": b"0", "a.json": b'{"caption": "x"}', "b.json": b'{"label": 1}'},
    "both": {"a.json": b'{"label": 1}', "a.cls": b"0", "b.cls": b"1", "b.json": b'{"label": 0}'},
    "json that is none": {"a.json": b"a caption", "a.cls": b"0", "b.cls": b"1"},
    "json without an image": {"a.cls": b"0", "b.cls": b"1", "shard.json": b"{}"},
}


@pytest.mark.parametrize("name", LABELS)
def test_foreign_labels_are_read_in_any_order_and_format(foreign: Path, name: str) -> None:
    put_tar(foreign / "train/000.tar", {"a.jpg": b"a", "b.jpg": b"b", **LABELS[name]})
    assert list(open_images(str(foreign)).source("train", ("0", "1")).labels) == [0, 1]


@pytest.mark.parametrize(
    "label", [b"1.0", b"0x1", b"1 2", b"", b"\x01\x00\x00\x00", b"1000000", b"9" * 5000]
)
def test_invalid_label_is_reported(foreign: Path, label: bytes) -> None:
    put_tar(foreign / "train/000.tar", {**GOOD, "a.cls": label})
    with pytest.raises(DataError, match=r"000\.tar/a\.cls: holds no label"):
        classes_of(foreign)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_links_in_place_of_images_are_reported(foreign: Path, kind: bytes) -> None:
    """Ignoring links would lose images without notice."""
    with tarfile.open(foreign / "train/000.tar", "a") as tar:
        link = tarfile.TarInfo("c.jpg")
        link.type, link.linkname = kind, "a.jpg"
        tar.addfile(link)
    with pytest.raises(
        DataError, match=r"000\.tar/c\.jpg: a link or a sparse file; write the shard again"
    ):
        classes_of(foreign)


def test_members_whose_names_are_not_utf8_are_reported(foreign: Path) -> None:
    put_tar(
        foreign / "train/000.tar",
        {**GOOD, os.fsdecode(b"caf\xe9.jpg"): b"c", os.fsdecode(b"caf\xe9.cls"): b"0"},
    )
    with pytest.raises(
        DataError, match=r"train/000\.tar: file names that are not UTF-8: caf\\xe9\.jpg; rename"
    ):
        classes_of(foreign)


def test_shards_whose_names_are_not_utf8_are_reported(foreign: Path) -> None:
    put_tar(foreign / os.fsdecode(b"train/caf\xe9.tar"), GOOD)
    with pytest.raises(
        DataError, match=r"foreign: file names that are not UTF-8: train/caf\\xe9\.tar; rename"
    ):
        classes_of(foreign)


def test_index_with_a_byte_order_mark_is_read(local: Path) -> None:
    before = fingerprint(str(local), num_classes=2)
    path = local / "index.json"
    path.write_bytes(path.read_text().encode("utf-8-sig"))
    assert fingerprint(str(local), num_classes=2) == before


def test_index_with_names_that_are_not_utf8_is_reported(local: Path) -> None:
    path = local / "index.json"
    path.write_text(path.read_text().replace('"odd/', '"\\udce9/', 1))
    with pytest.raises(
        DataError,
        match=r"index\.json: not a valid shard index: half of a surrogate pair .*; write a",
    ):
        classes_of(local)


def test_class_names_that_are_not_utf8_are_reported(foreign: Path) -> None:
    (foreign / "classes.txt").write_bytes(b"cat\ncaf\xe9\n")
    with pytest.raises(
        DataError, match=r"classes\.txt:2: not UTF-8 text: .* 0xe9; save the file as UTF-8"
    ):
        classes_of(foreign)


def test_shard_that_is_a_broken_link_is_named(foreign: Path) -> None:
    (foreign / "train/001.tar").symlink_to("gone.tar")
    with pytest.raises(
        DataError,
        match=r"train/001\.tar: cannot be read or written: a symbolic link to gone\.tar, which",
    ):
        classes_of(foreign)
