"""Data sets in a bucket, as tests put them there and fetch them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import boto3

from pipelines.data import folder as data_folders
from pipelines.data.folder import data_folder


def put(bucket: str, name: str, content: bytes) -> None:
    boto3.client("s3").put_object(Bucket=bucket, Key=f"sets/coco/{name}", Body=content)


def upload(root: Path, bucket: str) -> str:
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        put(bucket, path.relative_to(root).as_posix(), path.read_bytes())
    return f"s3://{bucket}/sets/coco"


def files_below(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def fetch_again(uri: str, *splits: str) -> Path:
    """Fetches like another process would."""
    data_folders._FETCHED.clear()
    return data_folder(uri, "coco", *splits)


def zip_of(root: Path, folders: dict[str, str]) -> bytes:
    """A zip of folders in `root`, each under another name."""
    path = root.parent / "made.zip"
    with zipfile.ZipFile(path, "w") as made:
        for folder, name in folders.items():
            for file in sorted((root / folder).rglob("*")):
                made.write(file, f"{name}/{file.relative_to(root / folder)}")
    return path.read_bytes()
