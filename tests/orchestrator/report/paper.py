"""A job that follows the paper exactly, and its manifests, for tests of deviations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.artifact import Manifest, Metric
from orchestrator.report import published_rows
from orchestrator.spec import Job, load_job
from pipelines import KINDS

JOB = """
name: paper
store: ./store
stages:
  search:
    kind: tune
    of: pretrain
    space: {lr: {loguniform: [1.0e-4, 1.0e-3]}, drop_path_rate: {uniform: [0.0, 0.3]}}
    num_trials: 2
    overrides: {epochs: 30}
  pretrain:
    kind: pretrain
    model: cat_small
    precision: fp16
    data: imagenet
    published: imagenet1k/cat_small
  scenes:
    kind: segmentation
    method: semantic_fpn
    backbone: pretrain.checkpoint
    data: ade20k
    published: ade20k/semantic_fpn_80k/cat_small
"""
VALUES = {
    "pretrain": {"top1": 81.5, "top5": 95.7},
    "scenes": {"miou": 40.0, "macc": 52.0, "aacc": 80.0},
}
NUM_SAMPLES = {"pretrain": 50_000, "scenes": 2_000}


def load_paper(folder: Path, *overrides: str, more: str = "") -> Job:
    """Load JOB and `more` stages, with overrides whose paths are relative to `stages`."""
    (folder / "job.yaml").write_text(JOB + more)
    return load_job(
        folder / "job.yaml",
        kinds=KINDS,
        published={name: row.kind for name, row in published_rows().items()},
        overrides=[f"stages.{override}" for override in overrides],
        base_dir=folder,
    )


def manifests(num_samples: Mapping[str, int | None] = NUM_SAMPLES) -> dict[str, Manifest]:
    """Return manifests of the stages in `num_samples`, with these numbers of val images."""
    return {stage: _manifest(stage, number) for stage, number in num_samples.items()}


def _manifest(stage: str, num_samples: int | None) -> Manifest:
    values = VALUES[stage]
    metrics = tuple(
        Metric(name=name, value=value, num_samples=num_samples) for name, value in values.items()
    )
    key = {"pretrain": "a", "scenes": "b"}[stage] * 64
    return Manifest(
        key=key,
        stage=stage,
        kind=stage,
        recipe={},
        params={},
        artifacts={},
        metrics=metrics,
        provenance={},
    )
