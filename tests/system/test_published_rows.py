"""jobs/published_rows.yaml: the 16 published rows of COCO and ADE20K.

Each backbone is trained only once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifact import Manifest
from orchestrator.plan import Plan
from orchestrator.planning import plan_job
from orchestrator.report.published import PublishedRow, published_rows
from orchestrator.spec import Job, load_job
from orchestrator.store import open_store
from orchestrator.store.publish import publish_manifest
from pipelines import KINDS

JOB = Path(__file__).parents[2] / "jobs" / "published_rows.yaml"
ROWS = published_rows()
DOWNSTREAM = {name: row for name, row in ROWS.items() if row.kind in ("detection", "segmentation")}


def _job(store: Path) -> Job:
    kinds = {name: row.kind for name, row in ROWS.items()}
    # The data sets do not exist here, so the job states their fingerprints.
    stated = [
        f"stages.{name}.data_fingerprint={'d' * 64}"
        for name in ("pretrain", "coco", "coco_ms", "ade20k")
    ]
    return load_job(
        JOB, kinds=KINDS, published=kinds, overrides=stated, base_dir=None, store=str(store)
    )


def _verdicts(plan: Plan) -> dict[str, str]:
    return {planned.name: planned.verdict.value for planned in plan.stages}


def test_each_published_row_is_one_cell(tmp_path: Path) -> None:
    job = _job(tmp_path)
    named = [stage.published for stage in job.stages.values() if stage.kind.name != "pretrain"]
    assert sorted(filter(None, named)) == sorted(DOWNSTREAM)
    assert len(DOWNSTREAM) == 16


@pytest.mark.parametrize("row", DOWNSTREAM.values(), ids=DOWNSTREAM.keys())
def test_a_cell_has_the_backbone_and_params_of_its_row(row: PublishedRow, tmp_path: Path) -> None:
    (stage,) = [stage for stage in _job(tmp_path).stages.values() if stage.published == row.id]
    assert stage.inputs["backbone"].stage == f"pretrain/{row.id.rpartition('/')[2]}"
    wanted = type(stage.params)(**row.recipe, backbone="pretrain.checkpoint", data="data")
    own = {"backbone", "data", "num_classes", "tta"}
    assert stage.params.model_dump(exclude=own) == wanted.model_dump(exclude=own)


def test_with_finished_backbones_no_pretraining_starts(tmp_path: Path) -> None:
    job, store = _job(tmp_path), open_store(str(tmp_path))
    plan = plan_job(job, store)
    assert set(_verdicts(plan).values()) == {"RUN"}
    for planned in plan.stages:
        if planned.stage.kind.name == "pretrain":
            _finish(store.uri, planned.key, planned.name)
    verdicts = _verdicts(plan_job(job, store))
    assert [name for name, verdict in verdicts.items() if verdict == "REUSE"] == [
        "pretrain/cat_small",
        "pretrain/cat_base",
    ]
    assert sum(verdict == "RUN" for verdict in verdicts.values()) == 16


def _finish(store_uri: str, key: str, stage: str) -> None:
    nothing: dict[str, Any] = {
        "recipe": {},
        "params": {},
        "artifacts": {},
        "metrics": (),
        "provenance": {},
    }
    publish_manifest(
        open_store(store_uri), Manifest(key=key, stage=stage, kind="pretrain", **nothing)
    )
