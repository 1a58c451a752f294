"""Each object is written with the encryption that the environment names, on workers too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest

from orchestrator.s3.encryption import encryption_in, set_encryption
from orchestrator.s3.offer import OFFER, adopt_offer, make_offer
from orchestrator.store import open_store

KEY = "alias/cat"


def _write_in_each_way(bucket: str, folder: Path) -> dict[str, Any]:
    """The answers about one object for each way to write one."""
    store = open_store(f"s3://{bucket}/x")
    (folder / "small").write_bytes(b"small")
    (folder / "large").write_bytes(b"x" * (2**24 + 1))
    store.write("written", b"")
    assert store.create("created", b"")
    store.upload("small", folder / "small")
    store.upload("large", folder / "large")  # in parts
    return {
        name: boto3.client("s3").head_object(Bucket=bucket, Key=f"x/{name}")
        for name in ("written", "created", "small", "large")
    }


def test_every_write_names_the_encryption_and_the_key(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_S3_SSE", "aws:kms")
    monkeypatch.setenv("ORCHESTRATOR_S3_KMS_KEY", KEY)
    for name, answer in _write_in_each_way(bucket, tmp_path).items():
        assert (name, answer.get("ServerSideEncryption")) == (name, "aws:kms")
        assert answer["SSEKMSKeyId"].endswith(KEY)


def test_without_a_setting_the_bucket_decides(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ORCHESTRATOR_S3_SSE", raising=False)
    assert encryption_in({"ORCHESTRATOR_S3_KMS_KEY": KEY}) == {}
    answers = _write_in_each_way(bucket, tmp_path)
    assert {answer.get("SSEKMSKeyId") for answer in answers.values()} == {None}


def test_encryption_of_the_job_replaces_that_of_a_workers_machine() -> None:
    driver: dict[str, str] = {"ORCHESTRATOR_S3_KMS_KEY": "alias/old"}
    set_encryption(driver, sse="AES256", kms_key=None)
    worker = {
        OFFER: json.dumps(make_offer(driver)),
        "ORCHESTRATOR_S3_SSE": "aws:kms",
        "ORCHESTRATOR_S3_KMS_KEY": KEY,
    }
    adopt_offer(worker)
    assert encryption_in(worker) == {"ServerSideEncryption": "AES256"}
    adopt_offer(own := {"ORCHESTRATOR_S3_SSE": "aws:kms"})
    assert encryption_in(own) == {"ServerSideEncryption": "aws:kms"}
