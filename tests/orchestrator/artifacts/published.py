"""A job with two finished stages and one that is not, in a store, without any training."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.artifact import Artifact, Manifest, Metric
from orchestrator.plan import Digests, Plan, PriorRuns, make_plan
from orchestrator.runs.last_run import write_last_run
from orchestrator.spec import load_job
from orchestrator.store import Store, open_store
from orchestrator.store.publish import (
    blob_name,
    load_manifest,
    manifest_name,
    publish_artifact,
    publish_manifest,
)
from pipelines import KINDS

JOB = """
name: small
store: {store}
stages:
  pretrain: {{kind: pretrain, data: images, model: cat_tiny, epochs: 3}}
  measured: {{kind: evaluate, of: pretrain}}
  boxes: {{kind: detection, method: mask_rcnn, backbone: pretrain.checkpoint, data: coco}}
"""
FILES = {
    "pretrain": {
        "checkpoint": {"model.safetensors": b"weights", "deep/model.json": b"{}"},
        "log": {"epochs.jsonl": b"{}\n"},
    },
    "measured": {"details": {"per_class.json": b"[]"}},
}
METRICS = {"pretrain": {"top1": 81.5, "top5": 95.75}, "measured": {"top1": 81.25}}


@dataclass(frozen=True)
class Published:
    """The job file, its store and its plan. `boxes` is not finished."""

    job: Path
    store: Store
    plan: Plan

    def blob(self, content: bytes) -> str:
        """The name of the blob with this content, published by this job."""
        (name,) = (name for name in self.store.names("blobs") if self.store.read(name) == content)
        return name


def publish_job(folder: Path, store_uri: str, checkpoint: Path | None = None) -> Published:
    """Publish the stages in FILES. `checkpoint` is a folder with pretrain's checkpoint instead."""
    job_file = folder / "job.yaml"
    job_file.write_text(JOB.format(store=store_uri))
    job = load_job(job_file, kinds=KINDS, base_dir=folder)
    store = open_store(store_uri)
    prior = PriorRuns(is_done=lambda key: False, recipes={}, reruns={})
    plan = make_plan(job, digests=dict.fromkeys(job.stages, Digests("d" * 64, {})), prior=prior)
    for stage, outputs in FILES.items():
        artifacts = {
            name: _publish(store, folder / "made" / stage / name, files)
            for name, files in outputs.items()
        }
        if stage == "pretrain" and checkpoint is not None:
            artifacts["checkpoint"] = publish_artifact(store, checkpoint)
        publish_manifest(store, _manifest(plan, stage, artifacts))
    write_last_run(store, plan, run_id="20260101T000000-a")
    return Published(job_file, store, plan)


def publish_with_outside(published: Published, content: bytes) -> str:
    """Let `pretrain` have read a file from outside the job. Returns the name of its blob."""
    store, key = published.store, published.plan["pretrain"].key
    digest = hashlib.sha256(content).hexdigest()
    store.write(blob_name(digest), content)
    manifest = load_manifest(store, key)
    assert manifest is not None
    recipe = {**manifest.recipe, "inputs": {"backbone": {"sha256": digest}}}
    store.write(manifest_name(key), manifest.model_copy(update={"recipe": recipe}).to_json())
    return blob_name(digest)


def _publish(store: Store, folder: Path, files: dict[str, bytes]) -> Artifact:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return publish_artifact(store, folder)


def _manifest(plan: Plan, stage: str, artifacts: dict[str, Artifact]) -> Manifest:
    planned = plan[stage]
    metrics = METRICS[stage].items()
    return Manifest(
        key=planned.key,
        stage=stage,
        kind=planned.stage.kind.name,
        recipe=planned.recipe,
        params=planned.stage.params.model_dump(mode="json"),
        recipe_audit={},
        artifacts=artifacts,
        metrics=tuple(Metric(name=name, value=value, num_samples=100) for name, value in metrics),
        provenance={
            "job": "small",
            "run_id": "20260101T000000-a",
            "finished_at_s": 1767225600.0,
            "host": "machine",
            "code": {"sha256": "c" * 64, "commit": None, "is_dirty": None},
        },
    )


@pytest.fixture
def published(tmp_path: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch) -> Published:
    """The job in the current folder, in a folder store and in S3."""
    monkeypatch.chdir(tmp_path)
    return publish_job(tmp_path, store_uri)


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """The job in the current folder and in a folder store."""
    monkeypatch.chdir(tmp_path)
    return publish_job(tmp_path, str(tmp_path / "store"))
