"""A worker's problems with the store become events of the run."""

from __future__ import annotations

import socket

import pytest

from orchestrator.cluster.store_news import store_news
from orchestrator.errors import StoreError
from orchestrator.s3 import client
from orchestrator.store import open_store


def test_silent_server_is_an_event_while_the_worker_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "READ_TIMEOUT_S", 0.2)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    events: list[str] = []
    with socket.socket() as silent, store_news(events.append):
        silent.bind(("127.0.0.1", 0))
        silent.listen(10)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(StoreError, match="the server does not answer"):
            open_store("s3://bucket/x").read("a")
    assert events == [f"the server {url} does not answer; trying again (2 of 3)"]
