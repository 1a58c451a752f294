"""What the tests share: one real Ray cluster, and a clean environment for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.3"  # 2 by default, longer than a whole run of most tests
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # workers import kinds that tests define
os.environ.pop("RAY_ADDRESS", None)


@pytest.fixture(scope="session")
def cluster_address() -> Iterator[str]:
    """The address of a cluster with 4 CPUs, started once; no driver is connected to it."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415  only the tests that use it pay for the import

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    os.environ["RAY_ADDRESS"] = cluster.address
    yield cluster.address
    os.environ.pop("RAY_ADDRESS")
    cluster.shutdown()
