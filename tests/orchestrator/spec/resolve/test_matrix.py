"""Matrices: which cells a stage makes, their fields, refs to them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.artifact import Ref
from orchestrator.spec import cells_named
from tests.orchestrator.spec.kinds import load_text
from tests.orchestrator.spec.yaml.loader.test_loader import faults_of

MATRIX = """\
name: cells
store: ./store
stages:
  pretrain:
    kind: train
    data: data/{model}
    matrix: {model: [cat_tiny, cat_small], seed: [0, 1]}
  scenes:
    kind: finetune
    data: d
    backbone: pretrain/{model}-0.checkpoint
    matrix: {model: [cat_tiny], lr: [0.1, 1.0e-3]}
"""
MATRIX_WITHOUT_MODEL = MATRIX.replace("matrix: {model: [cat_tiny], lr", "matrix: {lr").replace(
    "{model}-0", "cat_tiny-0"
)


def test_a_matrix_makes_a_stage_for_each_combination(tmp_path: Path) -> None:
    stages = load_text(MATRIX_WITHOUT_MODEL, tmp_path).stages
    assert list(stages) == [
        *(
            "pretrain/cat_tiny-0",
            "pretrain/cat_tiny-1",
            "pretrain/cat_small-0",
            "pretrain/cat_small-1",
        ),
        *("scenes/0_1", "scenes/0_001"),
    ]
    assert [(stage.params.model, stage.seed) for stage in list(stages.values())[1:3]] == [
        ("cat_tiny", 1),
        ("cat_small", 0),
    ]
    assert stages["scenes/0_001"].params.lr == 1e-3


def test_string_of_a_cell_may_name_its_axes(tmp_path: Path) -> None:
    stages = load_text(MATRIX_WITHOUT_MODEL, tmp_path).stages
    assert stages["pretrain/cat_small-1"].params.data == f"{tmp_path}/data/cat_small"
    assert stages["scenes/0_1"].inputs == {"backbone": Ref("pretrain/cat_tiny-0", "checkpoint")}


def test_a_ref_to_all_cells_makes_a_cell_for_each(tmp_path: Path) -> None:
    text = MATRIX_WITHOUT_MODEL.replace("pretrain/cat_tiny-0.checkpoint", "pretrain/*.checkpoint")
    stages = load_text(text, tmp_path).stages
    cells = [name for name in stages if name.startswith("scenes/")]
    assert len(cells) == 4 * 2
    assert stages["scenes/cat_small-1-0_1"].inputs["backbone"] == Ref(
        "pretrain/cat_small-1", "checkpoint"
    )


def test_string_may_name_the_cell_that_a_field_points_to(tmp_path: Path) -> None:
    text = MATRIX_WITHOUT_MODEL.replace("pretrain/cat_tiny-0.checkpoint", "pretrain/*.checkpoint")
    listed = text.replace("    data: d\n", "").replace(
        "matrix: {lr: [0.1, 1.0e-3]}", 'matrix: [{lr: 0.1, data: "{backbone}/{lr}"}]'
    )
    stages = load_text(listed, tmp_path).stages
    assert stages["scenes/cat_small-1-0_1"].params.data == f"{tmp_path}/cat_small-1/0_1"


def test_refs_to_all_cells_work_in_any_order(tmp_path: Path) -> None:
    text = """\
name: x
store: s
stages:
  last: {kind: finetune, data: d, backbone: middle/*.checkpoint}
  middle: {kind: train, data: d, matrix: {epochs: [1, 2]}}
"""
    assert list(load_text(text, tmp_path).stages) == ["last/1", "last/2", "middle/1", "middle/2"]


def test_cells_with_mappings_as_values_are_numbered(tmp_path: Path) -> None:
    text = (
        "name: x\nstore: s\nstages:\n  a: {kind: train, data: d, matrix: {model: [{depths: "
        "[1]}, {depths: [2]}]}}\n"
    )
    stages = load_text(text, tmp_path).stages
    assert [stages[name].params.model.depths for name in ("a/0", "a/1")] == [(1,), (2,)]


def test_a_matrix_may_list_its_cells(tmp_path: Path) -> None:
    cells = "[{epochs: 3, label: x/three}, {epochs: 9, label: nine, lr: 0.5}]"
    text = (
        f"name: x\nstore: s\nstages:\n  a: {{kind: train, data: 'd/{{label}}', matrix: {cells}}}\n"
    )
    stages = load_text(text, tmp_path).stages
    assert list(stages) == ["a/3", "a/9"]
    assert [(stage.params.label, stage.params.lr) for stage in stages.values()] == [
        ("x/three", None),
        ("nine", 0.5),
    ]
    assert stages["a/3"].params.data == f"{tmp_path}/d/x_three"


def test_override_of_a_matrix_applies_to_all_cells(tmp_path: Path) -> None:
    stages = load_text(
        MATRIX_WITHOUT_MODEL, tmp_path, "stages.pretrain.epochs=3", "stages.scenes.matrix.lr=[0.5]"
    ).stages
    assert {
        stage.params.epochs for name, stage in stages.items() if name.startswith("pretrain/")
    } == {3}
    assert [name for name in stages if name.startswith("scenes/")] == ["scenes/0_5"]


def test_a_name_means_itself_or_all_cells_of_a_matrix() -> None:
    stages = ["coco/a", "coco/b", "cocoa"]
    assert cells_named("coco", stages) == ["coco/a", "coco/b"]
    assert cells_named("coco/b", stages) == ["coco/b"]
    assert cells_named("cocoa", stages) == ["cocoa"]
    assert cells_named("coc", stages) == []


HEAD = "name: x\nstore: s\nstages:\n"


@pytest.mark.parametrize(
    ("stages", "faults"),
    [
        (
            "  a: {kind: train, data: d, matrix: {epoch: [1]}}\n",
            ["4:38: stages.a.epoch: unknown field, did you mean 'epochs'?"],
        ),
        (
            "  a: {kind: train, data: d, matrix: {epochs: [1, 0, -1]}}\n",
            [
                "4:50: stages.a.epochs: must be at least 1, not 0",
                "4:53: stages.a.epochs: must be at least 1, not -1",
            ],
        ),
        (
            "  a: {kind: train, data: d, epoch: 3, matrix: {seed: [0, 1]}}\n",
            ["4:29: stages.a.epoch: unknown field, did you mean 'epochs'?"],
        ),
        (
            "  a: {kind: train, data: d, matrix: [seed]}\n",
            ["4:38: stages.a.matrix.0: must be a mapping of fields, such as {seed: 0}"],
        ),
        (
            "  a: {kind: train, data: d, matrix: []}\n",
            [
                (
                    "4:29: stages.a.matrix: must map fields to lists of values, such as {seed: [0, "
                    "1]}, or list cells"
                )
            ],
        ),
        (
            "  a: {kind: train, data: d, seed: 1, matrix: [{epochs: 1}, {seed: 3}]}\n",
            [("4:61: stages.a.matrix.1.seed: is also a field of the stage; remove one of the two")],
        ),
        (
            "  a: {kind: train, data: d, matrix: [{epochs: 1, seed: 1}, {epochs: 1, seed: 2}]}\n",
            [
                "4:3: stages.a.matrix: two cells are named a/1; use values that differ in letters "
                "or digits"
            ],
        ),
        (
            "  a: {kind: train, data: d, matrix: {seed: 3}}\n",
            ["4:38: stages.a.matrix.seed: must be a list of values, not 3"],
        ),
        (
            "  a: {kind: train, data: d, matrix: {seed: []}}\n",
            ["4:38: stages.a.matrix.seed: must not be empty"],
        ),
        (
            "  a: {kind: train, data: d, seed: 1, matrix: {seed: [0, 1]}}\n",
            [("4:47: stages.a.matrix.seed: is also a field of the stage; remove one of the two")],
        ),
        (
            "  a: {kind: train, data: d, matrix: {label: [a+b, a/b]}}\n",
            [
                "4:3: stages.a.matrix: two cells are named a/a_b; use values that differ in "
                "letters or digits"
            ],
        ),
        (
            (
                "  a: {kind: train, data: d, matrix: {epochs: &n [1, 2, 3, 4, 5, 6], seed: *n, "
                "lr: *n, flip: *n}}\n"
            ),
            [
                "4:29: stages.a.matrix: makes 1296 cells; the limit is 1000",
                "4:50: stages.a.flip: must be true or false, not 1",
            ],
        ),
        (
            "  a: {kind: train, data: d, matrix: {seed: [0, 1]}}\n"
            "  b: {kind: finetune, data: d, backbone: a.checkpoint}\n",
            [
                (
                    "5:42: stages.b.backbone: 'a' is a matrix; name one of its cells (a/0, a/1), "
                    "or write a/* for all"
                )
            ],
        ),
        (
            (
                "  a: {kind: train, data: d}\n  b: {kind: finetune, data: d, backbone: "
                "a/*.checkpoint}\n"
            ),
            ["5:42: stages.b.backbone: 'a' has no cells; STAGE/* points to a stage with a matrix"],
        ),
        (
            "  b: {kind: finetune, data: d, backbone: b/*.checkpoint}\n",
            ["4:42: stages.b.backbone: 'b' has no cells; STAGE/* points to a stage with a matrix"],
        ),
        (
            "  a: {kind: train, data: d, matrix: {seed: [0, 1]}}\n"
            "  s: {kind: tune, of: a, num_trials: 1, space: {lr: {uniform: [0.1, 1]}}}\n",
            [
                (
                    "5:23: stages.s.of: 'a' is a matrix; name one of its cells (a/0, a/1), or "
                    "write a/* for all"
                )
            ],
        ),
    ],
)
def test_invalid_matrix_is_a_fault_at_its_position(
    stages: str, faults: list[str], tmp_path: Path
) -> None:
    assert faults_of(HEAD + stages, tmp_path) == faults
