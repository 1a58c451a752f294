"""Jobs whose pretraining starts from weights: a stage's checkpoint, a file, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.artifact import Ref
from orchestrator.errors import SpecError
from orchestrator.fingerprint import KeyInputs, recipe_of
from orchestrator.plan import Digests, PriorRuns, make_plan
from orchestrator.spec import Job, job_document, job_from_document, load_job
from pipelines import KINDS

JOB = """
name: tune-up
store: ./store
stages:
  pretrain: {{kind: pretrain, data: imagenet}}
  finer: {{kind: pretrain, data: imagenet, img_size: 384, epochs: 30, {weights}}}
  measure: {{kind: evaluate, of: finer}}
  search: {{kind: tune, of: finer, space: {{lr: {{uniform: [1.0e-5, 1.0e-4]}}}}, num_trials: 2}}
"""
FROM_STAGE = "weights: pretrain.checkpoint"


def _job(folder: Path, weights: str = FROM_STAGE) -> Job:
    (folder / "job.yaml").write_text(JOB.format(weights=weights))
    return load_job(folder / "job.yaml", kinds=KINDS, published={}, base_dir=folder)


@pytest.mark.parametrize("weights", ["seed: 1", "weights: null"])
def test_stage_without_weights_starts_at_random(tmp_path: Path, weights: str) -> None:
    stage = _job(tmp_path, weights).stages["finer"]
    assert stage.inputs == {}
    assert stage.files == {}
    assert stage.needs == ()


def test_weights_of_a_stage_are_an_edge_and_part_of_the_key(tmp_path: Path) -> None:
    job = _job(tmp_path)
    stage = job.stages["finer"]
    assert stage.inputs == {"weights": Ref("pretrain", "checkpoint")}
    keys = [
        recipe_of(
            job, stage, KeyInputs(data="d", rerun=0, input_keys={"pretrain": key}, file_digests={})
        )["inputs"]
        for key in ("a", "b")
    ]
    assert keys == [{"weights": {"key": key, "output": "checkpoint"}} for key in ("a", "b")]


def test_weights_may_be_a_file_from_outside(tmp_path: Path) -> None:
    stage = _job(tmp_path, "weights: cat_tiny.pth").stages["finer"]
    assert stage.inputs == {}
    assert stage.files == {"weights": str(tmp_path / "cat_tiny.pth")}


def test_stage_that_makes_the_weights_runs_first(tmp_path: Path) -> None:
    job = _job(tmp_path)
    digests = {name: Digests("d", {}) for name in job.stages}
    plan = make_plan(job, digests=digests, prior=PriorRuns(lambda _: False, {}, {}))
    names = [planned.name for planned in plan.stages]
    assert names.index("pretrain") < names.index("finer") < names.index("measure")
    assert job.stages["search"].needs == ("pretrain",)
    assert job.stages["measure"].params.input_size == 384


def test_job_survives_a_document_round_trip(tmp_path: Path) -> None:
    job = _job(tmp_path)
    assert job_from_document(job_document(job), kinds=KINDS, where="here").stages == job.stages


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ("weights: measure.checkpoint", r"finer\.weights: .*measure"),
        ("reset_head: true", r"reset_head: true needs `weights`, whose head it replaces"),
        (
            "weights: pretrian.checkpoint",
            r"finer\.weights: unknown stage 'pretrian', did you mean 'pretrain'",
        ),
    ],
)
def test_invalid_start_weights_are_refused(tmp_path: Path, weights: str, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        _job(tmp_path, weights)
