"""The quickstarts of detectors in a smaller form: every cell that ran is in the report."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

JOBS = Path(__file__).parents[2] / "jobs"
BOX = {"box_map", "box_map50"}
SHRUNK_DETECTOR = {"epochs": "1", "img_scale": "[64, 64]", "warmup_iters": "5", "batch_size": "16"}


def _json(
    folder: Path, verb: str, job: str, sets: Mapping[str, str], only: Sequence[str] = ()
) -> Any:
    settings = [
        word for name, value in sets.items() for word in ("--set", f"stages.{name}={value}")
    ]
    chosen = [word for stage in only for word in ("--only", stage)]
    command = [
        sys.executable,
        "-m",
        "orchestrator",
        verb,
        str(JOBS / job),
        *settings,
        *chosen,
        "--json",
    ]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=3600
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout)


def _shrunk(*detectors: str) -> dict[str, str]:
    fields = {
        f"{stage}.{name}": value for stage in detectors for name, value in SHRUNK_DETECTOR.items()
    }
    return {"pretrain.epochs": "2", "pretrain.data_fraction": "0.3", **fields}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of both jobs, so that they share the pretraining."""
    return tmp_path_factory.mktemp("workplace")


def _measured(report: Any) -> dict[str, set[str]]:
    """The scores of each cell that ran."""
    shown = [cell for cell in report["cells"] if cell["metric"] != "data_wait"]
    cells = [cell for cell in shown if cell["unit"] == "%" and cell["value"] is not None]
    assert all(0 <= cell["value"] <= 100 for cell in cells)
    stages = {cell["stage"] for cell in cells}
    return {stage: {cell["metric"] for cell in cells if cell["stage"] == stage} for stage in stages}


@pytest.mark.stress
def test_all_methods_train_from_one_backbone(workplace: Path) -> None:
    sets = {**_shrunk("coco", "coco_ms"), "ade20k.max_iters": "20", "ade20k.warmup_iters": "5"}
    measured = _measured(_json(workplace, "run", "quickstart_matrix.yaml", sets))
    methods = {f"coco/{method}": BOX for method in ("fcos", "atss", "retinanet", "cascade_rcnn")}
    plus = {"coco_ms/mask_rcnn": {*BOX, "mask_map", "mask_map50"}, "coco_ms/cascade_rcnn": BOX}
    assert measured.pop("pretrain")
    assert measured == {**methods, **plus, "ade20k": {"miou", "macc", "aacc"}}
    plan = _json(workplace, "plan", "quickstart_matrix.yaml", sets)
    assert {stage["verdict"] for stage in plan["stages"]} == {"REUSE"}


@pytest.mark.slow
def test_detectors_train_from_a_backbone_and_from_scratch(workplace: Path) -> None:
    sets = _shrunk("retinanet", "mask_rcnn")
    ran = {"retinanet/pretrained", "retinanet/scratch"}
    measured = _measured(
        _json(workplace, "run", "quickstart_detectors.yaml", sets, only=sorted(ran))
    )
    assert measured.keys() == {"pretrain", *ran}
    plan = {
        stage["name"]: stage
        for stage in _json(workplace, "plan", "quickstart_detectors.yaml", sets)["stages"]
    }
    assert plan["retinanet/pretrained"]["needs"] == ["pretrain"]
    assert plan["retinanet/scratch"]["needs"] == []
