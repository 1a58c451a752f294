"""The contract of stores: every test here that uses `store_uri` runs with every kind of store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from orchestrator.store import open_store
from tests.conftest import make_bucket
from tests.s3_servers import SERVERS, S3Server, s3_server

OTHER_SERVERS = [pytest.param(name, marks=pytest.mark.slow) for name in SERVERS]


@pytest.fixture(scope="session")
def start_server(
    environment: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], S3Server]]:
    """Start a server by name, once per session."""
    with ExitStack() as servers:

        @cache
        def start(name: str) -> S3Server:
            return servers.enter_context(s3_server(name, tmp_path_factory.mktemp(name)))

        yield start


@pytest.fixture(params=["folder", "s3", *OTHER_SERVERS])
def store_uri(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    start_server: Callable[[str], S3Server],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """The URI of an empty store: a folder, moto, and each of the other servers in turn."""
    if request.param == "folder":
        return str(tmp_path / "store")
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('bucket')}/some/prefix"
    for name, value in start_server(request.param).variables.items():
        monkeypatch.setenv(name, value)
    return f"s3://{make_bucket('bucket')}/some/prefix"


@pytest.fixture
def for_several_runs(store_uri: str) -> None:
    """Skip the test if only one run at a time may use the store."""
    if open_store(store_uri).probe().is_for_one_run:
        pytest.skip("this server ignores conditional puts")
