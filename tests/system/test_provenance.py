"""The manifests of a run say where their numbers come from: code, job file, machines and cost."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from orchestrator import code_version
from orchestrator.artifact import Manifest
from orchestrator.cluster import origin
from orchestrator.planning import plan_job
from orchestrator.results import load_results
from orchestrator.run import run_plan
from orchestrator.spec import load_job
from orchestrator.store import Store, open_store
from orchestrator.store.publish import fetch_artifact
from tests.orchestrator.counting import KINDS

BASE = """\
# The job that others extend.
name: told
stages:
  search: {kind: tune, of: first, space: {gain: {choice: [1.0, 2.0]}}, num_trials: 2,
    algorithm: {name: random}, overrides: {epochs: 1, num_deaths: 0}, resources: {workers: 1}}
  first: {kind: count, data: data, num_deaths: 1, epochs: 3, resources: {workers: 2}}
  measured: {kind: evaluate, of: first}
"""
JOB = """\
extends: base.yaml
store: ./store
"""
PATCH = b"diff --git a/pipelines/x.py b/pipelines/x.py\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cluster_address: str) -> Path:
    """A folder with the store of a run, whose code has local changes."""
    folder = tmp_path_factory.mktemp("told")
    (folder / "data").mkdir()
    (folder / "data" / "content.txt").write_text("content")
    (folder / "base.yaml").write_text(BASE)
    (folder / "job.yaml").write_text(JOB)
    patch = code_version.Patch(sha256=hashlib.sha256(PATCH).hexdigest(), size=len(PATCH))
    version = code_version.CodeVersion(
        sha256=code_version.code_sha256(), commit="c" * 40, is_dirty=True, patch=patch
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(origin, "code_version", lambda: version)
        patched.setattr(origin, "code_patch", lambda: PATCH)
        job = load_job(
            folder / "job.yaml", kinds=KINDS, base_dir=folder, overrides=["stages.first.epochs=2"]
        )
        store = open_store(job.store)
        outcome = run_plan(plan_job(job, store), store, address=cluster_address, watch=_ignore)
    assert outcome.exit_code == 0, outcome.errors
    return folder


def _ignore(_: object) -> None:
    """Show nothing."""


@pytest.fixture
def store(folder: Path) -> Store:
    return open_store(str(folder / "store"))


@pytest.fixture
def manifests(folder: Path, store: Store) -> Mapping[str, Manifest]:
    job = load_job(folder / "job.yaml", kinds=KINDS, base_dir=folder)
    return load_results(job, store, kinds=KINDS).manifests


def test_each_manifest_has_the_job_as_written(
    manifests: Mapping[str, Manifest], store: Store, tmp_path: Path
) -> None:
    for name, manifest in manifests.items():
        folder = fetch_artifact(store, manifest.artifacts["job_file"], tmp_path / name)
        assert (folder / "job.yaml").read_text() == JOB
        assert (folder / "extended_1.yaml").read_text() == BASE
        assert manifest.provenance["overrides"] == ["stages.first.epochs=2"]
    assert set(manifests) == {"search", "first", "measured"}


def test_each_manifest_has_the_patch_of_the_code_that_ran(
    manifests: Mapping[str, Manifest], store: Store, tmp_path: Path
) -> None:
    for name, manifest in manifests.items():
        folder = fetch_artifact(store, manifest.artifacts["code_patch"], tmp_path / name)
        assert (folder / "code.patch").read_bytes() == PATCH
        code: Any = manifest.provenance["code"]
        assert code["patch"]["sha256"] == hashlib.sha256(PATCH).hexdigest()
        assert "records" not in manifest.provenance
    assert set(manifests["first"].outputs) == {"count", "checkpoint"}
    assert manifests["measured"].outputs == {}


def test_lost_attempt_of_a_group_is_listed_and_paid_for(
    manifests: Mapping[str, Manifest],
) -> None:
    provenance: Any = manifests["first"].provenance
    lost, last = provenance["attempts"]
    assert "lost" in lost["end"] or "killed" in lost["end"]
    assert (lost["number"], last["number"]) == (1, 2)
    assert last["end"] == "published"
    assert lost["began_at_s"] <= lost["ended_at_s"] <= last["began_at_s"] <= last["ended_at_s"]
    seconds = [one["ended_at_s"] - one["began_at_s"] for one in (lost, last)]
    assert provenance["cost"]["core_hours"] == pytest.approx(2 * sum(seconds) / 3600)
    assert provenance["cost"]["gpu_hours"] == 0


def test_search_costs_its_trials(manifests: Mapping[str, Manifest]) -> None:
    provenance: Any = manifests["search"].provenance
    (attempt,) = provenance["attempts"]
    assert attempt["end"] == "published"
    lasted_s = attempt["ended_at_s"] - attempt["began_at_s"]
    assert 0 < provenance["cost"]["core_hours"] < 2 * lasted_s / 3600


def test_machines_and_packages_are_recorded(manifests: Mapping[str, Manifest]) -> None:
    host = socket.gethostname()
    for manifest in manifests.values():
        provenance: Any = manifest.provenance
        assert provenance["hosts"] == [host] * (2 if manifest.stage == "first" else 1)
        (machine,) = provenance["machines"]
        assert machine["host"] == host
        assert machine["cores"] >= 1
        assert provenance["packages"]["pydantic"] == metadata.version("pydantic")
        assert len(provenance["packages"]) > 50
        assert provenance["ray_job_id"]
        assert "energy" not in provenance
