"""What a listing of a store in S3 needs from the server."""

from __future__ import annotations

import pytest

from orchestrator.errors import StoreError
from orchestrator.store.lease import find_owner
from orchestrator.store.s3 import S3Store
from tests.s3_front import front


def test_listing_without_a_date_is_an_error_and_ends_no_lease(
    bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"s3://{bucket}/x"
    S3Store(uri).write("leases/key/00000001.json", b"{}")
    with front(lambda *_: None, behind=s3_endpoint, has_date=False) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        store = S3Store(uri)
        assert store.names("leases") == ["leases/key/00000001.json"]
        with pytest.raises(StoreError, match=r"cannot list leases: the answer has no Date header"):
            list(store.entries("leases"))
        with pytest.raises(StoreError, match="no Date header"):
            find_owner(store, "key")
