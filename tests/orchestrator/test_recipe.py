"""The recipe audit: the params that differ from the reference recipe, in the stage's manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifact import Artifact, Deviation, File, Manifest, digest_of
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.publishing import publish_result
from orchestrator.contract import StageResult
from orchestrator.errors import IntegrityError, StoreError
from orchestrator.fingerprint import KeyInputs, recipe_of
from orchestrator.recipe import param_deviations, recipe_audit
from orchestrator.spec import Resources, load_job, template_params
from orchestrator.store.training import Training
from pipelines import KINDS

JOB = """
name: audited
store: ./store
stages:
  pretrain: {kind: pretrain, data: imagenet, model: cat_small, epochs: 10, batch_size: 32,
    loader_workers: 9}
  scenes: {kind: segmentation, data: ade20k, method: semantic_fpn, backbone: pretrain.checkpoint,
    num_classes: 150}
  search:
    kind: tune
    of: pretrain
    space: {lr: {uniform: [1.0e-5, 1.0e-4]}, batch_size: {choice: [16, 64]}}
    num_trials: 2
    overrides: {epochs: 2, lr: 3.0e-5}
"""


def make_attempt(folder: Path, name: str) -> Attempt:
    """Make an attempt as the cluster does, but without inputs."""
    (folder / "job.yaml").write_text(JOB)
    job = load_job(folder / "job.yaml", kinds=KINDS, published={}, base_dir=folder)
    stage = job.stages[name]
    keys = dict.fromkeys(job.stages, "k")
    recipe = recipe_of(job, stage, KeyInputs(data="d", rerun=0, input_keys=keys, file_digests={}))
    return Attempt(
        stage=name,
        number=1,
        trial=None,
        kind=stage.kind.name,
        entry="none:none",
        key="a" * 64,
        recipe=recipe,
        params=template_params(job, stage) if name == "search" else stage.params,
        fingerprint=lambda _: "d",
        stated_data=None,
        reads=lambda params: {},
        can_stop=True,
        seed=0,
        resources=Resources(),
        workers=1,
        selectors=(),
        metric="top1",
        keep_best=0,
        inputs={},
        store_uri=job.store,
        training=Training("train", 1),
        provenance={},
    )


@pytest.mark.parametrize(
    ("stage", "audit"),
    [
        # a published model is a choice, and params outside the Key change no result
        (
            "pretrain",
            {"epochs": (10, 300), "batch_size": (32, 1024), "precision": ("fp32", "fp16")},
        ),
        ("scenes", {}),
        # for a search, only the params that its trials share, not the searched ones
        ("search", {"epochs": (2, 300), "precision": ("fp32", "fp16")}),
    ],
)
def test_manifest_has_the_deviations_from_the_reference(
    tmp_path: Path, stage: str, audit: dict[str, Any]
) -> None:
    manifest = publish_result(make_attempt(tmp_path, stage), StageResult({}, ()))
    expected = {
        name: Deviation(used=used, reference=reference) for name, (used, reference) in audit.items()
    }
    assert manifest.recipe_audit == expected
    assert Manifest.from_json(manifest.to_json(), where="here") == manifest


def test_custom_model_and_nested_settings_are_deviations(tmp_path: Path) -> None:
    params = make_attempt(tmp_path, "pretrain").params.overlay(
        {"model": {"embed_dim": 48}, "mixup": 0, "betas": [0.9, 0.99]}
    )
    audit = recipe_audit(params)
    assert audit.keys() == {"model", "epochs", "batch_size", "precision", "mixup", "betas"}
    assert audit["model"].reference == "cat_tiny"
    assert audit["betas"] == Deviation(used=[0.9, 0.99], reference=[0.9, 0.999])


def test_method_and_its_usual_settings_are_not_deviations(tmp_path: Path) -> None:
    params = make_attempt(tmp_path, "scenes").params
    assert recipe_audit(params) == {}
    assert recipe_audit(params.overlay({"lr": 6e-5, "channels": 256, "head_channels": 128})) == {}
    assert recipe_audit(params.overlay({"batch_size": 32, "lr": 1.2e-4})).keys() == {"batch_size"}
    assert recipe_audit(params.overlay({"init": "scratch", "model": "cat_base"})).keys() == {"init"}


def test_recipe_takes_precedence_over_the_defaults(tmp_path: Path) -> None:
    params = make_attempt(tmp_path, "pretrain").params
    found = param_deviations(params, {"model": "cat_small", "epochs": 10, "precision": "fp16"})
    assert {name: (deviation.used, deviation.reference) for name, deviation in found.items()} == {
        "batch_size": (32, 1024),
        "precision": ("fp32", "fp16"),
    }


def test_manifest_older_than_audits_can_be_read(tmp_path: Path) -> None:
    manifest = publish_result(make_attempt(tmp_path, "pretrain"), StageResult({}, ()))
    content = json.loads(manifest.to_json())
    del content["sha256"], content["recipe_audit"]
    old = json.dumps({**content, "sha256": digest_of(content)}).encode()
    assert Manifest.from_json(old, where="here").recipe_audit is None


def test_edited_audit_is_refused(tmp_path: Path) -> None:
    document = publish_result(make_attempt(tmp_path, "pretrain"), StageResult({}, ())).to_json()
    content = json.loads(document)
    content["recipe_audit"] = {}
    with pytest.raises(IntegrityError, match=r"here: its content differs from its sha256"):
        Manifest.from_json(json.dumps(content).encode(), where="here")


def test_param_that_adds_a_metric_is_in_key_but_no_deviation(tmp_path: Path) -> None:
    stage = make_attempt(tmp_path, "scenes").params.model_copy(update={"tta": True})
    assert stage.in_key()["tta"] is True
    assert "tta" not in recipe_audit(stage)
    assert "miou_ms_flip" in KINDS["segmentation"].metrics(stage)


def test_a_published_blob_that_is_gone_is_an_error(tmp_path: Path) -> None:
    outside = Artifact(files=(File(path="model", sha256="f" * 64, size=5),))
    with pytest.raises(StoreError, match=r"f{64} \(model\) was deleted before .* --force STAGE$"):
        publish_result(
            make_attempt(tmp_path, "pretrain"),
            StageResult({}, ()),
            published={"checkpoint": outside},
        )
