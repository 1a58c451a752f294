"""docs/s3-policy.json allows each request of a whole run, and has no right that is not used.

The same run encrypts all that it writes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import pytest

from orchestrator.errors import StoreError
from orchestrator.s3 import client
from orchestrator.store import open_store
from pipelines.data.listing import list_remote
from tests.conftest import ROOT, make_bucket
from tests.s3_calls import Policy, Right, rights_of
from tests.s3_front import Answer, front, refusal

POLICIES = json.loads((ROOT / "docs" / "s3-policy.json").read_text())
PREFIX, DATA_PREFIX = "team/cat", "data"
JOB = """\
name: rights
store_options: {sse: aws:kms, kms_key: alias/cat}
stages:
  first: {kind: count, data: data, epochs: 2, keep_best: 1, says: hello}
  second: {kind: evaluate, task: count, data: data, checkpoint: s3://BUCKET/data/count.json}
"""


@dataclass
class Recorded:
    """An S3 server that records the rights that its requests need."""

    url: str
    bucket: str
    folder: Path
    rights: set[Right] = field(default_factory=set)
    refuses_parts: bool = False

    def run(self, *arguments: str) -> str:
        """Run a command of the orchestrator as another process."""
        command = [sys.executable, "-m", "tests.orchestrator", *arguments]
        environ = {**os.environ, "AWS_ENDPOINT_URL": self.url}
        done = subprocess.run(
            command, cwd=self.folder, env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-5000:]
        return done.stdout

    @contextmanager
    def recording(self) -> Iterator[set[Right]]:
        """Yield the rights that requests within the block need."""
        self.rights = set()
        yield self.rights

    def policy(self, role: str) -> Policy:
        names = {
            "DATA_BUCKET": self.bucket,
            "DATA_PREFIX": DATA_PREFIX,
            "BUCKET": self.bucket,
            "PREFIX": PREFIX,
        }
        return Policy(POLICIES[role], names)


@pytest.fixture(scope="module")
def recorded(
    s3_endpoint: str, cluster_address: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Recorded]:
    """A recording server, whose bucket has the data of the job."""
    folder, bucket = tmp_path_factory.mktemp("rights"), make_bucket("rights")
    (folder / "data").mkdir()
    (folder / "data" / "content.txt").write_text("content")
    text = f"store: s3://{bucket}/{PREFIX}\n{JOB.replace('BUCKET', bucket)}"
    (folder / "job.yaml").write_text(text)
    s3 = boto3.client("s3")
    for name in (
        "count.json",
        "images/training/1.jpg",
        "annotations/training/1.png",
        "classes.txt",
    ):
        s3.put_object(Bucket=bucket, Key=f"data/{name}", Body=b"40")

    def record(method: str, path: str, headers: Mapping[str, str]) -> Answer | None:
        server.rights |= set(rights_of(method, path, headers))
        is_part = method == "PUT" and "partNumber" in path
        return refusal(403, "AccessDenied") if is_part and server.refuses_parts else None

    with front(record, behind=s3_endpoint) as running:
        server = Recorded(running.url, bucket, folder)
        yield server


@pytest.fixture(scope="module")
def of_run(recorded: Recorded) -> set[Right]:
    """The rights that a run needs, its listing of data, and an upload that fails."""
    with recorded.recording() as rights:
        recorded.run("run", "job.yaml")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", recorded.url)
            patch.setattr(client, "MAX_ATTEMPTS", 1)
            list_remote(f"s3://{recorded.bucket}/{DATA_PREFIX}", "ade20k", ["training"])
            (recorded.folder / "large").write_bytes(b"x" * (2**24 + 1))
            recorded.refuses_parts = True
            store = open_store(f"s3://{recorded.bucket}/{PREFIX}")
            with pytest.raises(StoreError):
                store.upload("large", recorded.folder / "large")
            recorded.refuses_parts = False
    return rights


def _check(policy: Policy, rights: set[Right]) -> None:
    """Check that the policy allows all rights, and has no others."""
    assert [right for right in sorted(rights, key=str) if not policy.allows(right)] == []
    assert policy.granted - policy.used == set()


def test_a_run_needs_all_rights_of_its_policy_and_no_other(
    recorded: Recorded, of_run: set[Right]
) -> None:
    assert len(of_run) > 20
    _check(recorded.policy("run"), of_run)


def test_every_object_of_a_run_is_encrypted_with_the_jobs_key(
    recorded: Recorded, of_run: set[Right]
) -> None:
    s3 = boto3.client("s3")
    names = open_store(f"s3://{recorded.bucket}").names(PREFIX)
    heads = {name: s3.head_object(Bucket=recorded.bucket, Key=name) for name in names}
    folders = {name.removeprefix(f"{PREFIX}/").partition("/")[0] for name in names}
    assert {"blobs", "manifests", "runs", "jobs"} <= folders
    assert {
        name: head.get("ServerSideEncryption")
        for name, head in heads.items()
        if not head.get("SSEKMSKeyId", "").endswith("alias/cat")
    } == {}


def test_reading_results_needs_all_rights_of_its_policy_and_no_other(
    recorded: Recorded, of_run: set[Right]
) -> None:
    with recorded.recording() as rights:
        assert "total" in recorded.run("report", "job.yaml", "--format", "html")
        assert "done" in recorded.run("status", "job.yaml")
        assert "hello" in recorded.run("logs", "job.yaml", "first")
    _check(recorded.policy("report"), rights)


@pytest.mark.skipif(
    not (ROOT / "orchestrator" / "artifacts" / "gc.py").exists(), reason="there is no gc yet"
)
def test_cleaning_needs_all_rights_of_its_policy_and_no_other(
    recorded: Recorded, of_run: set[Right]
) -> None:
    s3 = boto3.client("s3")
    for name in ("gone", "left"):
        upload = s3.create_multipart_upload(Bucket=recorded.bucket, Key=f"{PREFIX}/{name}")
        part = {"Bucket": recorded.bucket, "Key": f"{PREFIX}/{name}", "PartNumber": 1}
        s3.upload_part(**part, UploadId=upload["UploadId"], Body=b"x")
    s3.put_object(Bucket=recorded.bucket, Key=f"{PREFIX}/blobs/sha256/ab/{'ab' * 32}", Body=b"x")
    with recorded.recording() as rights:
        recorded.run("artifacts", "gc", "job.yaml", "--older-than", "0d", "--yes")
    _check(recorded.policy("gc"), rights)


@pytest.mark.parametrize("role", list(POLICIES))
def test_no_policy_reaches_beyond_the_prefix(recorded: Recorded, role: str) -> None:
    policy = recorded.policy(role)
    bucket = f"arn:aws:s3:::{recorded.bucket}"
    for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
        assert not policy.allows(Right(action, f"{bucket}/team/other/x"))
        assert not policy.allows(Right(action, f"{bucket}/{PREFIX}x"))
    assert not policy.allows(Right("s3:ListBucket", bucket, prefix=""))
    assert not policy.allows(Right("s3:ListBucket", bucket, prefix="team/"))
    assert not policy.allows(Right("s3:DeleteObject", f"{bucket}/{DATA_PREFIX}/x"))
