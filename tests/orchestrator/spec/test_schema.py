"""The JSON Schema for editors: it is current, has descriptions and agrees with the models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from orchestrator.spec.faults import Faults
from orchestrator.spec.schema import job_schema
from orchestrator.spec.yaml.loader import load_tree
from orchestrator.spec.yaml.node import plain
from pipelines import KINDS
from tests.orchestrator.spec.kinds import GOOD
from tests.orchestrator.spec.kinds import KINDS as TEST_KINDS
from tests.orchestrator.spec.resolve.test_matrix import MATRIX_WITHOUT_MODEL as MATRIX

ROOT = Path(__file__).parents[3]
JOB_FILES = sorted((ROOT / "jobs").glob("*.yaml"))


def _load(path: Path) -> Any:
    tree = load_tree(path, Faults(), [])
    assert tree is not None
    return plain(tree)


def _errors(text: str, folder: Path) -> list[str]:
    (folder / "job.yaml").write_text(text)
    schema = job_schema(TEST_KINDS)
    Draft202012Validator.check_schema(schema)
    return [
        error.message
        for error in Draft202012Validator(schema).iter_errors(_load(folder / "job.yaml"))
    ]


def test_the_committed_schema_is_current() -> None:
    """To update it, run `orchestrator schema > docs/job.schema.json`."""
    assert json.loads((ROOT / "docs" / "job.schema.json").read_text()) == job_schema(KINDS)


@pytest.mark.parametrize("path", JOB_FILES, ids=lambda path: path.name)
def test_every_job_file_names_the_schema_and_passes_it(path: Path) -> None:
    Draft202012Validator(job_schema(KINDS)).validate(_load(path))
    assert path.read_text().startswith("# yaml-language-server: $schema=../docs/job.schema.json\n")


def test_every_field_of_every_stage_has_a_description() -> None:
    definitions: Any = job_schema(KINDS)["$defs"]
    stages = {name: stage for name, stage in definitions.items() if name.startswith("stage-")}
    assert set(stages) == {f"stage-{name}" for name in (*KINDS, "tune", "evaluate")}
    bare = [
        (name, field)
        for name, stage in stages.items()
        for field, what in stage["properties"].items()
        if not what.get("description")
    ]
    assert bare == []


RANGE = GOOD.replace("{workers: 2,", "{workers: [2, 4],")


@pytest.mark.parametrize(
    "text", [GOOD, RANGE, MATRIX, "extends: base.yaml\nstages: {pretrain: {epochs: 3}}\n"]
)
def test_valid_job_passes_the_schema(text: str, tmp_path: Path) -> None:
    assert _errors(text, tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr: 1e-3", "lrr: 1e-3", "'lrr' was unexpected"),
        ("label: on", "epochs: ten", "'ten' is not of type 'integer'"),
        ("label: on", "epochs: 0", "0 is less than the minimum of 1"),
        ("kind: train\n", "kind: trian\n", "'trian' is not one of"),
        ("name: digits\n", "", "'name' is a required property"),
        ("{workers: 2,", "{worker: 2,", "'worker' was unexpected"),
        ("{workers: 2,", "{workers: [2],", "is not valid under any of the given schemas"),
        ("  pretrain:\n", "  1st:\n", "'1st' does not match"),
    ],
)
def test_invalid_job_fails_the_schema(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert any(message in error for error in _errors(GOOD.replace(old, new), tmp_path))
