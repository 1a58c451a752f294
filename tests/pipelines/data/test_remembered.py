"""Location of the user's cache. tests/orchestrator/test_account.py has users without a home."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cache_room import cache_folder


def test_cache_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "orchestrator"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "scratch"))
    assert cache_folder() == tmp_path / "scratch" / "orchestrator"
