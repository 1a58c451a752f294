"""A run on a machine whose clock is wrong by an hour respects the leases of others."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from orchestrator.runs.ownership import OwnedStages
from orchestrator.store import open_store

KEY = "d" * 64
TRY = """
import sys
from orchestrator.runs.ownership import OwnedStages
from orchestrator.store import open_store
owned = OwnedStages(open_store(sys.argv[1]), "other", "job", clock=lambda: float(sys.argv[3]))
owned.take("train", sys.argv[2])
owned.clock = lambda: float(sys.argv[3]) + 1000
print(owned.take("train", sys.argv[2]))
"""


def _take_with_clock(offset: str, store_uri: str) -> str:
    """The answer to a run whose clock is off by `offset` and that looks twice."""
    command = ["faketime", "-f", offset, sys.executable, "-c", TRY, store_uri, KEY, "0"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("offset", ["+1h", "-1h"])
def test_a_wrong_clock_neither_takes_a_live_lease_nor_keeps_an_expired_one(
    store_uri: str, offset: str
) -> None:
    store = open_store(store_uri)
    with OwnedStages(store, "first", "job", duration_s=600) as first:
        assert first.take("train", KEY)
        assert _take_with_clock(offset, store_uri) == "False"
    store = open_store(store_uri)
    silent = OwnedStages(store, "silent", "job", duration_s=0.5)
    assert silent.take("train", KEY)
    time.sleep(2.5)  # S3 counts whole seconds
    assert _take_with_clock(offset, store_uri) == "True"
