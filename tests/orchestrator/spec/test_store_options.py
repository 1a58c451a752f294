"""`store_options:` in a job: its faults, its document, and that no Key depends on it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.planning import plan_job
from orchestrator.spec import Job, StoreOptions, job_document, job_from_document, load_job
from orchestrator.store import open_store
from tests.orchestrator import counting
from tests.orchestrator.spec.kinds import GOOD, KINDS, load_text

ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def _load(options: str, folder: Path, *, store: str | None = "s3://bucket/x") -> Job:
    text = GOOD.replace("seed: 7", f"store_options: {options}")
    return load_text(text, folder, store=store)


@pytest.mark.parametrize("key", [ARN, "alias/team/cat", "1234abcd-12ab-34cd-56ef-1234567890ab"])
def test_document_keeps_the_options(tmp_path: Path, key: str) -> None:
    job = _load(f"{{sse: aws:kms, kms_key: '{key}'}}", tmp_path)
    assert job.store_options == StoreOptions(sse="aws:kms", kms_key=key)
    document = json.loads(json.dumps(job_document(job)))
    assert job_from_document(document, kinds=KINDS, where="store") == job
    del document["store_options"]  # of an older version
    assert job_from_document(document, kinds=KINDS, where="store").store_options is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("{}", "store_options.sse: is required"),
        ("{sse: aes}", "store_options.sse: must be "),
        ("{sse: AES256, kms_key: alias/x}", "store_options.kms_key: needs `sse: aws:kms`"),
        ("{sse: aws:kms, kms_key: c2VjcmV0IQ==}", "store_options.kms_key: must be the id, the ARN"),
        ("{sse: aws:kms, key: alias/x}", "store_options.key: unknown field, did you mean 'kms_key"),
    ],
)
def test_faults_name_the_field(tmp_path: Path, options: str, text: str) -> None:
    with pytest.raises(SpecError, match=re.escape(text)) as caught:
        _load(options, tmp_path)
    assert "c2VjcmV0" not in str(caught.value)


def test_encryption_of_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"job\.yaml:\d+:1: store_options: has no effect on the"):
        _load("{sse: AES256}", tmp_path, store=None)
    assert _load("null", tmp_path, store=None).store_options is None


def test_no_key_depends_on_the_options(tmp_path: Path) -> None:
    (tmp_path / "content.txt").write_text("content")
    stages = {"only": {"kind": "count", "data": str(tmp_path)}}
    document = {"name": "one", "store": "s3://bucket/x", "stages": stages}
    keys = set()
    for options in (None, {"sse": "AES256"}, {"sse": "aws:kms", "kms_key": ARN}):
        path = tmp_path / "job.yaml"
        path.write_text(json.dumps({**document, "store_options": options}))
        job = load_job(path, kinds=counting.KINDS, base_dir=tmp_path)
        (planned,) = plan_job(job, open_store(str(tmp_path / "store"))).stages
        keys.add(planned.key)
    assert len(keys) == 1
