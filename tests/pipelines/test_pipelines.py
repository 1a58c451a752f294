"""The table of kinds."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.artifact import unit_of
from orchestrator.contract import CHECKPOINT, Role
from orchestrator.errors import SpecError
from orchestrator.spec import EvaluateParams, Job, load_job
from orchestrator.spec.schema import field_docstrings
from pipelines import KINDS
from pipelines.training.metrics import TRAINING


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_resolves_to_an_entry_point(name: str) -> None:
    kind = KINDS[name]
    assert kind.name == name
    assert kind.entry is not None
    assert kind.evaluation is not None
    for entry in (kind.entry, kind.evaluation.entry):
        module, _, function = entry.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("name", KINDS)
def test_every_input_of_a_kind_points_to_an_output(name: str) -> None:
    kind = KINDS[name]
    assert set(kind.inputs) == set(kind.params.fields_with(Role.INPUT))
    for targets in kind.inputs.values():
        for target in targets:
            other, _, output = target.partition(".")
            assert output in KINDS[other].outputs


@pytest.mark.parametrize("name", KINDS)
def test_every_evaluated_kind_publishes_a_checkpoint(name: str) -> None:
    assert CHECKPOINT in KINDS[name].outputs
    assert not set(KINDS[name].params.model_fields) & set(EvaluateParams.model_fields)


@pytest.mark.parametrize("name", KINDS)
def test_every_field_has_a_docstring(name: str) -> None:
    params = KINDS[name].params
    assert set(params.model_fields) <= set(field_docstrings(params))


STAGES = """\
  pretrain: {kind: pretrain, data: d}
  detect: {kind: detection, data: d, method: fcos, init: scratch, model: cat_tiny}
  segment: {kind: segmentation, data: d, method: semantic_fpn, init: scratch, model: cat_tiny}
"""


def _load(folder: Path, stages: str, *overrides: str) -> Job:
    (folder / "job.yaml").write_text(f"name: n\nstore: /s\nstages:\n{stages}")
    return load_job(folder / "job.yaml", kinds=KINDS, overrides=overrides, base_dir=folder)


@pytest.mark.parametrize("stage", ["pretrain", "detect", "segment"])
def test_training_metrics_may_be_expected(stage: str, tmp_path: Path) -> None:
    expected = "{loss: '<= 2.5', images_per_s: '>= 100', data_wait: '<= 20'}"
    job = _load(tmp_path, STAGES, f"stages.{stage}.expect={expected}")
    assert set(job.stages[stage].expect) == set(TRAINING)
    assert [unit_of(name) for name in TRAINING] == ["", "images/s", "%"]


def test_search_never_maximises_a_loss(tmp_path: Path) -> None:
    search = (
        "  s: {kind: tune, of: pretrain, num_trials: 1, space: {lr: {uniform: [0.1, 0.2]}}, "
        "metric: loss}\n"
    )
    with pytest.raises(
        SpecError, match=r"7:92: stages\.s\.metric: lower loss is better; set `mode: min`"
    ):
        _load(tmp_path, STAGES + search)
    assert _load(tmp_path, STAGES + search, "stages.s.mode=min").stages["s"].metrics == ("loss",)


def test_table_of_kinds_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, pipelines; sys.exit(len({'torch', 'ray', 'mmengine', 'timm'} & "
        "set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
