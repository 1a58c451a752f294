"""Sample data are made on the machine that needs them."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.errors import DataError
from pipelines import KINDS
from pipelines.data.folder import _sample_folder, data_folder
from pipelines.pretrain.params import PretrainParams


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _sample_folder.cache_clear()
    return tmp_path


def _make(queue: multiprocessing.SimpleQueue[str]) -> None:
    queue.put(str(data_folder("sample:digits", "coco")))


def test_workers_that_start_together_get_one_complete_sample(caches: Path) -> None:
    context = multiprocessing.get_context("fork")
    folders: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    workers = [context.Process(target=_make, args=(folders,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    (folder,) = {folders.get() for _ in workers}
    assert folder.startswith(str(caches))
    assert len(list(Path(folder).glob("train2017/*.png"))) == 400
    params = PretrainParams(data="sample:digits")
    assert KINDS["pretrain"].fingerprint(params) == KINDS["pretrain"].fingerprint(
        params.model_copy(update={"data": str(data_folder("sample:digits", "imagenet"))})
    )


def test_unwritable_cache_is_named(caches: Path) -> None:
    (caches / "orchestrator").write_text("a file")
    with pytest.raises(
        DataError, match="cannot store the sample here: File exists; set XDG_CACHE_HOME"
    ):
        data_folder("sample:digits", "imagenet")


def test_unknown_sample_error_lists_the_known_ones() -> None:
    with pytest.raises(
        ValidationError, match="unknown sample 'sample:digit'; known: sample:digits"
    ):
        PretrainParams(data="sample:digit")


def test_folder_is_used_unchanged() -> None:
    assert data_folder("/some/folder", "coco") == Path("/some/folder")
