"""What a machine finds out about its store."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster.examination import examine_store
from orchestrator.store.folder import FolderStore


def test_store_that_returns_other_bytes_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = FolderStore.download

    def download_altered(store: FolderStore, name: str, path: Path) -> bool:
        is_there = download(store, name, path)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        return is_there

    monkeypatch.setattr(FolderStore, "download", download_altered)
    uri = str(tmp_path / "store")
    error = examine_store(uri, None).error or ""
    assert error.startswith(f"store {uri}: returns other bytes than were uploaded; check the")
    assert not [path for path in Path(uri).rglob("probe-*") if path.is_file()]
