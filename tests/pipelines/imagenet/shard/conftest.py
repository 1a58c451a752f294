"""A folder tree of 98 tiny "images", each of which contains its own number, and shards made from
it, on disk and in S3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.imagenet.shard.__main__ import main

NUM_TRAIN, NUM_VAL = 80, 18
IMAGES_PER_SHARD = 4
"""Gives 20 shards of train: more than are shuffled together."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Even numbers have the class `even`; train has 0 to 79, val 80 to 97."""
    for number in range(NUM_TRAIN + NUM_VAL):
        split = "train" if number < NUM_TRAIN else "val"
        path = tmp_path / "tree" / split / ("odd" if number % 2 else "even") / f"{number:03d}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(str(number).encode())
    return tmp_path / "tree"


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this machine's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches/orchestrator"


ShardSummary = Callable[[str], str]


@pytest.fixture
def write(tree: Path, caches: Path) -> ShardSummary:
    """Writes the shards of the tree to a location and returns it."""

    def write(place: str) -> str:
        assert main([str(tree), place, "--images-per-shard", str(IMAGES_PER_SHARD)]) == 0
        return place

    return write


@pytest.fixture
def local(write: ShardSummary, tmp_path: Path) -> Path:
    return Path(write(str(tmp_path / "shards")))


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, write: ShardSummary, tmp_path: Path) -> str:
    """The shards of the tree, on disk and in S3 in turn."""
    if request.param == "folder":
        return write(str(tmp_path / "shards"))
    return write(f"s3://{request.getfixturevalue('bucket')}/image/net")
