"""Training and evaluation from shards and class maps: the same images give the same scores, in any
location."""

from __future__ import annotations

import os
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import DataError
from pipelines.imagenet.shard.__main__ import main
from pipelines.pretrain import evaluate, train
from pipelines.pretrain.measure import NUM_BATCHES
from tests.pipelines.pretrain.conftest import MakeContext, as_evaluation


@pytest.fixture
def indices(
    data: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The sample in every layout."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    indices = {
        "folders": str(data),
        "class map": str(tmp_path / "map"),
        "shards": str(tmp_path / "shards"),
    }
    indices["s3"] = f"s3://{bucket}/digits"
    for place in ("shards", "s3"):
        assert main([str(data), indices[place], "--images-per-shard", "7"]) == 0
    (tmp_path / "map").mkdir()
    for split in ("train", "val"):
        (tmp_path / "map" / split).symlink_to(data / split)
        lines = [
            f"{path.relative_to(data)}\t{path.parent.name}\n"
            for path in sorted((data / split).glob("*/*"))
        ]
        (tmp_path / "map" / f"{split}_map.txt").write_text("".join(lines))
    return indices


@pytest.fixture
def fork_server(indices: dict[str, str]) -> Iterator[None]:
    """A fork server with the variables of this test's S3 server."""
    _forget_fork_server()
    yield
    _forget_fork_server()


def _forget_fork_server() -> None:
    """Let the next loader start a new server. This one ends with the last of its processes."""
    server: Any = forkserver._forkserver
    if server._forkserver_pid is not None:
        os.close(server._forkserver_alive_fd)
    server._forkserver_alive_fd = server._forkserver_pid = server._forkserver_address = None


@pytest.mark.usefixtures("fork_server")
def test_classifier_scores_the_same_in_every_layout(
    indices: dict[str, str], make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NUM_BATCHES, "cpu", (0, 1))
    context, _ = make_context(data=indices["s3"], epochs=2, loader_workers=2)
    trained = train.run(context)
    for place in indices.values():
        context, _ = make_context(data=place)
        scores = evaluate.run(as_evaluation(context, trained.outputs["checkpoint"])).metrics[:2]
        assert scores == trained.metrics[:2]


def test_training_does_not_depend_on_the_shards_location(
    indices: dict[str, str], make_context: MakeContext
) -> None:
    results = []
    for place in ("shards", "s3"):
        context, recorder = make_context(data=indices[place], epochs=1)
        train.run(context)
        results.append([one["loss"] for one in recorder.metrics])
    assert results[0] == results[1]


def test_train_smaller_than_a_batch_is_reported_with_location(
    indices: dict[str, str], make_context: MakeContext
) -> None:
    context, _ = make_context(data=indices["s3"], batch_size=200)
    with pytest.raises(
        DataError,
        match=r"s3://bucket-\w+/digits: train holds 120 images, fewer than batch_size = 200",
    ):
        train.run(context)
