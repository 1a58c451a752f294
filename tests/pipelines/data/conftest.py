"""Fixtures of tests with data sets in S3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.s3.bucket import Object
from pipelines.data import folder as data_folders
from pipelines.data.s3 import DataBucket
from tests.pipelines.openmmlab.harness import write_coco


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where this machine keeps data sets, and a process that has fetched none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(data_folders, "_FETCHED", {})
    return tmp_path / "caches/orchestrator/data"


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco", num_train=3, num_val=2)


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Names of the parts that were requested, by any process."""
    log, read_part = tmp_path / "log", DataBucket.read_part
    log.touch()

    def noted(bucket: DataBucket, one: Object, start: int, size: int) -> bytes:
        with log.open("a") as file:
            file.write(f"{one.name}@{start}\n")
        return read_part(bucket, one, start, size)

    monkeypatch.setattr(DataBucket, "read_part", noted)
    return lambda: log.read_text().splitlines()
