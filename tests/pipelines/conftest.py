"""What the tests of pipelines share: one thread, and algorithms of a fixed order on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Networks this small gain nothing from a second thread, and beside another process wait for
    it: 8 s or 250."""
    torch.set_num_threads(1)


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On a GPU, as far as it has them; it warns of the others."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(mode=False)
