"""The job file, the patch and the submission that the manifests of a run name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cluster import origin
from orchestrator.cluster.origin import find_origin, publish_records
from orchestrator.spec import Source
from orchestrator.store import open_store
from orchestrator.store.publish import fetch_artifact


@pytest.fixture(autouse=True)
def patch(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The patch of local changes."""
    monkeypatch.setattr(origin, "code_patch", lambda: b"a patch")
    return b"a patch"


def test_records_are_published_byte_for_byte(tmp_path: Path, patch: bytes) -> None:
    source = Source((b"extends: a.yaml\r\n", b"\xef\xbb\xbfname: a\n"), ("seed=1",))
    found = find_origin(source, {})
    assert found.provenance["overrides"] == ["seed=1"]
    store = open_store(str(tmp_path / "store"))
    artifacts = publish_records(store, found.records)
    job = fetch_artifact(store, artifacts["job_file"], tmp_path / "job")
    assert (job / "job.yaml").read_bytes() == source.files[0]
    assert (job / "extended_1.yaml").read_bytes() == source.files[1]
    code = fetch_artifact(store, artifacts["code_patch"], tmp_path / "code")
    assert (code / "code.patch").read_bytes() == patch


def test_a_job_without_a_file_has_only_the_patch() -> None:
    assert set(find_origin(None, {}).records) == {"code_patch"}


@pytest.mark.parametrize("config", ["{}", "no JSON", '{"metadata": null}', "[]"])
def test_only_a_submitted_job_has_an_id(config: str) -> None:
    submitted = json.dumps({"metadata": {"job_submission_id": "raysubmit_1"}})
    name = "RAY_JOB_CONFIG_JSON_ENV_VAR"
    assert find_origin(None, {name: submitted}).provenance["submission_id"] == "raysubmit_1"
    assert "submission_id" not in find_origin(None, {name: config}).provenance
