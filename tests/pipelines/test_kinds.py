"""The table of kinds."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

from orchestrator.contract import CHECKPOINT, Role
from orchestrator.spec import EvaluateParams
from pipelines import KINDS


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_resolves(name: str) -> None:
    kind = KINDS[name]
    assert kind.name == name
    assert kind.entry is not None
    assert kind.evaluation is not None
    for entry in (kind.entry, kind.evaluation.entry):
        module, _, function = entry.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("name", KINDS)
def test_every_input_of_a_kind_is_a_field_and_points_to_an_output_that_exists(name: str) -> None:
    kind = KINDS[name]
    assert set(kind.inputs) == set(kind.params.fields_with(Role.INPUT))
    for targets in kind.inputs.values():
        for target in targets:
            other, _, output = target.partition(".")
            assert output in KINDS[other].outputs


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_with_an_evaluation_leaves_the_checkpoint_that_is_measured(name: str) -> None:
    assert CHECKPOINT in KINDS[name].outputs
    assert not set(KINDS[name].params.model_fields) & set(EvaluateParams.model_fields)


@pytest.mark.parametrize("name", KINDS)
def test_every_field_is_described(name: str) -> None:
    params = KINDS[name].params
    assert [field for field, info in params.model_fields.items() if not info.description] == []


def test_the_table_imports_neither_torch_nor_ray() -> None:
    code = "import sys, pipelines; sys.exit(len({'torch', 'ray', 'mmengine', 'timm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
