"""What the tests of pipelines share: one thread."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Networks this small gain nothing from a second thread, and beside another process wait for it: 8 s or 250."""
    torch.set_num_threads(1)
