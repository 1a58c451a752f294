"""Versions of a cluster are compared before Ray would refuse to join it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc  # type: ignore[import-untyped]
import pytest
import ray
from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
from ray._common.usage.usage_lib import get_cluster_metadata
from ray._private.ray_constants import KV_NAMESPACE_CLUSTER
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from orchestrator.cluster.checkup import check_cluster, find_versions
from orchestrator.cluster.examination import Questions, examine, find_packages
from orchestrator.doctor.check import Verdict
from orchestrator.errors import ClusterError


@pytest.fixture
def other_version(cluster_address: str) -> Iterator[str]:
    """The address of a cluster that reports another version of Ray within the test."""
    client = GcsClient(address=cluster_address)
    metadata = get_cluster_metadata(client)

    def report(document: dict[str, str]) -> None:
        content = json.dumps(document).encode()
        client.internal_kv_put(CLUSTER_METADATA_KEY, content, True, KV_NAMESPACE_CLUSTER)

    report({**metadata, "ray_version": "2.40.0"})
    yield cluster_address
    report(metadata)


def test_a_cluster_reports_its_versions(cluster_address: str) -> None:
    here = find_packages()
    assert find_versions(cluster_address) == {"ray": here["ray"], "python": here["python"]}
    with pytest.raises(ClusterError, match="cannot connect"):
        find_versions("127.0.0.1:1")


def test_a_server_that_is_not_ray_is_an_error_with_advice() -> None:
    server = grpc.server(ThreadPoolExecutor(1))  # it answers as gRPC does, but knows no call
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(ClusterError, match=r"does not report its versions: .*; check that the"):
            find_versions(f"127.0.0.1:{port}")
    finally:
        server.stop(grace=None).wait()


def test_a_cluster_with_another_ray_is_not_joined(other_version: str) -> None:
    nothing = Questions()
    checks = check_cluster(other_version, lambda _: nothing, driver=examine(nothing), hours=12)
    ray_version, python_version = checks
    assert (ray_version.verdict, python_version.verdict) == (Verdict.FAULT, Verdict.OK)
    assert ray_version.detail.startswith("2.40.0, but ")
    assert not ray.is_initialized()
