"""Data sets in S3 as the archives in which they are published."""

from __future__ import annotations

import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import DataError
from pipelines.data.folder import data_folder
from pipelines.segmentation.ade20k import read_classes, read_pairs
from tests.pipelines.data.buckets import fetch_again, files_below, put, zip_of
from tests.pipelines.openmmlab.harness import write_ade20k


def test_archives_published_by_coco_give_the_same_tree(
    coco: Path, bucket: str, caches: Path, fetched: Callable[[], list[str]]
) -> None:
    (coco / "annotations/captions_val2017.json").write_text("{}")
    put(bucket, "annotations_trainval2017.zip", zip_of(coco, {"annotations": "annotations"}))
    put(bucket, "train2017.zip", zip_of(coco, {"train2017": "train2017"}))
    put(bucket, "val2017.zip", zip_of(coco, {"val2017": "val2017"}))
    put(bucket, "test2017.zip", b"not asked for")
    uri = f"s3://{bucket}/sets/coco"
    root = data_folder(uri, "coco")
    (coco / "annotations/captions_val2017.json").unlink()
    assert files_below(root) == files_below(coco)
    fetch_again(uri, "val")
    assert sorted(fetched()) == [
        "annotations_trainval2017.zip@0",
        "train2017.zip@0",
        "val2017.zip@0",
    ]
    assert not list(caches.glob("*/objects/*/*"))  # an archive is deleted after it is unpacked


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_ade20k_archive_with_an_enclosing_folder_is_read(
    tmp_path: Path, bucket: str, caches: Path, suffix: str
) -> None:
    root = write_ade20k(tmp_path / "ADEChallengeData2016", num_train=2, num_val=1)
    if suffix == ".zip":
        content = zip_of(root, {".": "ADEChallengeData2016"})
    else:
        with tarfile.open(tmp_path / "made.tar.gz", "w:gz") as made:
            made.add(root, "./ADEChallengeData2016")
        content = (tmp_path / "made.tar.gz").read_bytes()
    put(bucket, f"ADEChallengeData2016{suffix}", content)
    folder = data_folder(f"s3://{bucket}/sets/coco", "ade20k")
    assert files_below(folder) == files_below(root)
    assert len(read_pairs(folder, "training").names) == 2
    assert len(read_classes(folder, None)) == 3


def test_unpacking_starts_over_after_a_kill(
    coco: Path, bucket: str, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, "annotations.zip", zip_of(coco, {"annotations": "annotations"}))
    put(bucket, "val2017.zip", zip_of(coco, {"val2017": "val2017"}))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(shutil, "copyfileobj", killed)
        with pytest.raises(KeyboardInterrupt):
            data_folder(f"s3://{bucket}/sets/coco", "coco", "val")
    assert not list(caches.glob("*/trees/*"))
    root = data_folder(f"s3://{bucket}/sets/coco", "coco", "val")
    assert files_below(root)["val2017/001.png"] == (coco / "val2017/001.png").read_bytes()


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _spoilt(content: bytes) -> bytes:
    place = content.index(b"IDAT") + 40
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [_cut, _spoilt])
def test_replacement_of_a_damaged_archive_is_fetched(
    coco: Path, bucket: str, caches: Path, damage: Callable[[bytes], bytes]
) -> None:
    content = zip_of(coco, {"val2017": "val2017"})
    put(
        bucket,
        "annotations/instances_val2017.json",
        (coco / "annotations/instances_val2017.json").read_bytes(),
    )
    put(bucket, "val2017.zip", damage(content))
    with pytest.raises(
        DataError,
        match=r"sets/coco/val2017\.zip: the archive cannot be unpacked: .*; upload it again",
    ):
        data_folder(f"s3://{bucket}/sets/coco", "coco", "val")
    assert not list(caches.glob("*/trees/*"))
    put(bucket, "val2017.zip", content)
    assert len(files_below(data_folder(f"s3://{bucket}/sets/coco", "coco", "val"))) == 3


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("val2017/../../x.png", "has a path outside itself, 'val2017/../../x.png'"),
        ("x.png", "holds no file of the data"),
    ],
)
def test_unrelated_archive_is_refused(
    tmp_path: Path, bucket: str, caches: Path, name: str, fault: str
) -> None:
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as made:
        made.writestr(name, b"")
    put(bucket, "annotations/instances_val2017.json", b"{}")
    put(bucket, "val2017.zip", (tmp_path / "made.zip").read_bytes())
    with pytest.raises(DataError, match=rf"val2017\.zip: the archive {re.escape(fault)}"):
        data_folder(f"s3://{bucket}/sets/coco", "coco", "val")
    assert not list(caches.glob("*/trees/*"))
