"""A SHA256SUMS file in S3 identifies a data set by the bytes of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from orchestrator.errors import DataError
from pipelines.data.folder import data_folder, fingerprint_remote
from tests.pipelines.data.buckets import fetch_again, files_below, put, upload


def _sums(root: Path) -> str:
    return "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in files_below(root).items()
    )


def test_sha256sums_replace_etags_in_the_fingerprint(
    coco: Path, bucket: str, caches: Path, fetched: Callable[[], list[str]]
) -> None:
    uri = upload(coco, bucket)
    put(bucket, "SHA256SUMS", _sums(coco).encode())
    before = fingerprint_remote(uri, "coco", "train", "val")
    client, key = boto3.client("s3"), "sets/coco/val2017/000.png"
    started = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    content = (coco / "val2017/000.png").read_bytes()
    part = client.upload_part(Bucket=bucket, Key=key, UploadId=started, PartNumber=1, Body=content)
    parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
    client.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=started, MultipartUpload=parts
    )
    assert fingerprint_remote(uri, "coco", "train", "val") == before
    put(bucket, "val2017/001.png", bytes(len((coco / "val2017/001.png").read_bytes())))
    with pytest.raises(
        DataError, match=r"bytes differ from SHA256SUMS: val2017/001\.png; upload them again"
    ):
        data_folder(uri, "coco")
    assert fetched().count("val2017/001.png@0") == 2  # a transfer may go wrong once
    assert fetched().count("val2017/000.png@0") == 1
    put(bucket, "val2017/001.png", (coco / "val2017/001.png").read_bytes())
    assert files_below(fetch_again(uri)) == files_below(coco)


def test_invalid_sha256sums_are_reported_by_line(coco: Path, bucket: str) -> None:
    uri = upload(coco, bucket)
    put(bucket, "SHA256SUMS", b"abc  val2017/000.png\n")
    with pytest.raises(
        DataError, match=r"SHA256SUMS:1: must be `<sha256>  <name>`, as sha256sum writes it"
    ):
        fingerprint_remote(uri, "coco", "val")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_sha256sums_may_have_a_byte_order_mark(coco: Path, bucket: str, encoding: str) -> None:
    """Writes the file like PowerShell does."""
    uri = upload(coco, bucket)
    put(bucket, "SHA256SUMS", _sums(coco).encode())
    before = fingerprint_remote(uri, "coco", "train", "val")
    put(bucket, "SHA256SUMS", _sums(coco).encode(encoding))
    assert fingerprint_remote(uri, "coco", "train", "val") == before


def test_sha256sums_that_are_not_utf8_are_reported(coco: Path, bucket: str) -> None:
    uri = upload(coco, bucket)
    put(bucket, "SHA256SUMS", _sums(coco).encode() + b"caf\xe9\n")
    with pytest.raises(
        DataError, match=r"SHA256SUMS:8: not UTF-8 text: .* 0xe9; save the file as UTF-8"
    ):
        fingerprint_remote(uri, "coco", "val")
