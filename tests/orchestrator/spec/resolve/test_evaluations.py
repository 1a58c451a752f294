"""The kind `evaluate`: what it uses of the measured stage or kind, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.artifact import Deviation, Ref
from orchestrator.errors import SpecError
from orchestrator.fingerprint import KeyInputs, recipe_of
from orchestrator.recipe import param_deviations
from orchestrator.spec import Job, Stage, job_document, job_from_document, load_job
from tests.orchestrator.spec.kinds import GOOD, KINDS, load_text
from tests.orchestrator.spec.yaml.loader.test_loader import HEAD, faults_of

BY_TASK = (
    "kind: evaluate, task: train, data: data/digits, model: {embed_dim: 16, depths: [1, 2]}, "
    "label: on"
)


def _measure(fields: str, folder: Path) -> Stage:
    """Return the stage `measure` with these fields, in the job GOOD."""
    return load_text(f"{GOOD}  measure: {{{fields}}}\n", folder).stages["measure"]


def test_evaluation_uses_params_and_checkpoint_of_its_stage(tmp_path: Path) -> None:
    stage = _measure("kind: evaluate, of: pretrain, expect: {params_m: '< 40'}", tmp_path)
    pretrain = load_text(GOOD, tmp_path).stages["pretrain"]
    assert stage.kind.name == "evaluate"
    assert stage.kind.evaluates == KINDS["train"]
    assert stage.params == pretrain.params
    assert stage.inputs == {"checkpoint": Ref("pretrain", "checkpoint")}
    assert stage.metrics == ("top1", "params_m")
    assert stage.resources.workers == 1  # its own, not the stage's


def test_evaluation_uses_its_stages_searched_params(tmp_path: Path) -> None:
    stage = _measure("kind: evaluate, of: pretrain", tmp_path)
    assert stage.params_from == Ref("search", "best_params")
    assert stage.needs == ("pretrain", "search")


def test_overrides_replace_params_of_the_measured_stage(tmp_path: Path) -> None:
    stage = _measure(
        "kind: evaluate, of: pretrain, overrides: {flip: false, model.depths: [3], data: other}",
        tmp_path,
    )
    assert stage.params.flip is False
    assert stage.params.model.depths == (3,)
    assert stage.params.model.embed_dim == 16
    assert stage.params.data == str(tmp_path / "other")


def test_evaluation_by_task_has_params_in_its_own_stage(tmp_path: Path) -> None:
    stage = _measure(f"{BY_TASK}, checkpoint: pretrain.checkpoint", tmp_path)
    assert stage.kind == _measure("kind: evaluate, of: pretrain", tmp_path).kind
    assert stage.params.model.embed_dim == 16
    assert stage.params.epochs == 10
    assert stage.params.data == str(tmp_path / "data/digits")
    assert stage.needs == ("pretrain",)
    assert stage.params_from is None


def test_inputs_of_training_are_not_inputs_of_an_evaluation(tmp_path: Path) -> None:
    stage = _measure(
        "kind: evaluate, task: finetune, data: d, checkpoint: segment.checkpoint", tmp_path
    )
    assert stage.inputs == {"checkpoint": Ref("segment", "checkpoint")}
    assert _measure("kind: evaluate, of: segment", tmp_path).inputs == stage.inputs


def test_evaluation_has_outputs_and_params_of_its_own(tmp_path: Path) -> None:
    assert _measure("kind: evaluate, of: segment", tmp_path).params.num_shown == 8
    stage = _measure("kind: evaluate, of: segment, overrides: {num_shown: 2, lr: 0.3}", tmp_path)
    assert stage.params.num_shown == 2
    assert stage.params.lr == 0.3
    assert stage.kind.outputs == ("details",)
    by_task = (
        "kind: evaluate, task: finetune, data: d, checkpoint: segment.checkpoint, num_shown: 2, "
        "lr: 0.3"
    )
    assert _measure(by_task, tmp_path).params.num_shown == 2
    text = (
        f"{GOOD}  other: {{kind: finetune, backbone: pretrain.checkpoint, data: d, num_shown: 2}}\n"
    )
    with pytest.raises(SpecError, match=r"stages\.other\.num_shown: unknown field"):
        load_text(text, tmp_path)


def test_extra_params_of_an_evaluation_are_not_deviations(tmp_path: Path) -> None:
    params = _measure("kind: evaluate, of: segment, overrides: {num_shown: 2}", tmp_path).params
    assert params.in_key()["num_shown"] == 2
    assert "num_shown" not in load_text(GOOD, tmp_path).stages["segment"].params.in_key()
    assert param_deviations(params, {"lr": 0.2}) == {"lr": Deviation(used=0.1, reference=0.2)}


@pytest.mark.parametrize("form", ["kind: evaluate, of: pretrain", BY_TASK])
def test_the_model_may_be_a_file_from_outside(form: str, tmp_path: Path) -> None:
    stage = _measure(f"{form}, checkpoint: s3://models/cat.pth", tmp_path)
    assert stage.inputs == {}
    assert stage.files == {"checkpoint": "s3://models/cat.pth"}


def test_params_and_weights_may_come_from_different_stages(tmp_path: Path) -> None:
    twin = "  twin: {kind: train, data: d}\n"
    measure = "  measure: {kind: evaluate, of: pretrain, checkpoint: twin.checkpoint}\n"
    stage = load_text(GOOD + twin + measure, tmp_path).stages["measure"]
    assert stage.inputs == {"checkpoint": Ref("twin", "checkpoint")}
    assert stage.params.label == "on"


def test_one_evaluation_measures_all_cells_of_a_matrix(tmp_path: Path) -> None:
    text = f"{HEAD}    matrix: {{epochs: [1, 2]}}\n  measure: {{kind: evaluate, of: pretrain/*}}\n"
    stages = load_text(text, tmp_path).stages
    assert list(stages) == ["pretrain/1", "pretrain/2", "measure/1", "measure/2"]
    assert stages["measure/2"].inputs == {"checkpoint": Ref("pretrain/2", "checkpoint")}
    assert stages["measure/2"].params.epochs == 2


# the fields of the stage `measure` begin in column 13 of line 7, after HEAD
FAULTS = {
    "neither": (
        "",
        "7:3: stages.measure: must have exactly one of `of` (a stage to measure) and `task`",
    ),
    "both": (
        ", of: pretrain, task: train",
        "7:49: stages.measure.task: must have exactly one of `of`",
    ),
    "unknown stage": (
        ", of: pretrian",
        "7:33: stages.measure.of: unknown stage 'pretrian', did you mean 'pretrain'?",
    ),
    "not a string": (", of: 3", "7:33: stages.measure.of: must be a string, not 3"),
    "a search": (
        ", of: search",
        (
            "7:33: stages.measure.of: search is of kind tune and produces no model to measure; "
            "name "
            "a stage that trains one"
        ),
    ),
    "an evaluation": (
        ", of: other",
        "7:33: stages.measure.of: other is an evaluation itself and produces no model to measure; "
        "name a stage that trains one",
    ),
    "itself": (
        ", of: measure",
        "7:33: stages.measure.of: measure is an evaluation itself and produces no model",
    ),
    "a matrix as a whole": (
        ", of: many",
        (
            "7:33: stages.measure.of: 'many' is a matrix; name one of its cells (many/1), or "
            "write many/* for all"
        ),
    ),
    "params with of": (
        ", of: pretrain, epochs: 3",
        "7:43: stages.measure.epochs: is not a field of an evaluation; with `of`, change params "
        "of the measured stage in `overrides`",
    ),
    "params_from with of": (
        ", of: pretrain, params_from: search.best_params",
        "7:43: stages.measure.params_from: not allowed with `of`: the measured stage's "
        "`params_from` applies; remove it",
    ),
    "override of an unknown field": (
        ", of: pretrain, overrides: {epoch: 3}",
        "7:55: stages.measure.overrides.epoch: unknown field, did you mean 'epochs'?",
    ),
    "override that does not fit": (
        ", of: pretrain, overrides: {epochs: 0}",
        "7:63: stages.measure.overrides.epochs: must be at least 1, not 0",
    ),
    "override of an input": (
        ", of: segment, overrides: {backbone: pretrain.checkpoint}",
        (
            "7:64: stages.measure.overrides.backbone: is an input; an evaluation reads only its "
            "`checkpoint`"
        ),
    ),
    "override of a searched param": (
        ", of: searched, overrides: {lr: 0.5}",
        (
            "7:55: stages.measure.overrides.lr: cannot be overridden: searched takes this param "
            "from search.best_params"
        ),
    ),
    "checkpoint of another kind": (
        ", of: pretrain, checkpoint: segment.checkpoint",
        "7:55: stages.measure.checkpoint: needs an output of kind train.checkpoint, but "
        "segment.checkpoint is "
        "finetune.checkpoint",
    ),
    "another output": (
        ", of: pretrain, checkpoint: pretrain.log",
        (
            "7:55: stages.measure.checkpoint: needs an output of kind train.checkpoint, but "
            "pretrain.log is train.log"
        ),
    ),
    "a kind that accepts no file": (
        ", of: segment, checkpoint: s3://models/cat.pth",
        "7:54: stages.measure.checkpoint: must be an output of a stage, written STAGE.OUTPUT: "
        "'s3://models/cat.pth' is outside the job",
    ),
    "a URI that is not a file": (
        ", of: pretrain, checkpoint: s3://models",
        (
            "7:55: stages.measure.checkpoint: a file from outside the job must be a path or "
            "s3://BUCKET/PREFIX/NAME"
        ),
    ),
    "unknown metric": (
        ", of: pretrain, expect: {top5: '> 1'}",
        "7:52: stages.measure.expect.top5: unknown metric, did you mean 'top1'?",
    ),
    "unknown task": (
        ", task: trian, checkpoint: x.pth",
        "7:35: stages.measure.task: unknown kind 'trian', did you mean 'train'?",
    ),
    "a task without models": (
        ", task: tune, checkpoint: x.pth",
        "7:35: stages.measure.task: tune produces no model to measure; known: train, finetune",
    ),
    "no checkpoint by task": (
        ", task: train, data: d",
        "7:35: stages.measure.task: `task` needs a `checkpoint`",
    ),
    "overrides by task": (
        ", task: train, checkpoint: x.pth, data: d, overrides: {epochs: 3}",
        "7:81: stages.measure.overrides: `overrides` needs `of`",
    ),
    "missing params by task": (
        ", task: train, checkpoint: x.pth",
        "7:3: stages.measure.data: is required",
    ),
    "unknown param by task": (
        ", task: train, checkpoint: x.pth, data: d, epoch: 3",
        "7:70: stages.measure.epoch: unknown field, did you mean 'epochs'?",
    ),
    "input by task": (
        ", task: finetune, checkpoint: segment.checkpoint, data: d, backbone: pretrain.checkpoint",
        "7:86: stages.measure.backbone: an evaluation reads only its `checkpoint`",
    ),
    "search of an evaluation": (
        (
            ", of: pretrain}\n  hunt: {kind: tune, of: measure, space: {lr: {choice: [1]}}, "
            "num_trials: 1"
        ),
        "8:26: stages.hunt.of: measure is an evaluation; name a stage that trains",
    ),
}
OTHERS = """\
  search: {kind: tune, of: pretrain, space: {lr: {uniform: [0.1, 1]}}, num_trials: 1}
  searched: {kind: train, data: d, params_from: search.best_params}
  segment: {kind: finetune, data: d, backbone: pretrain.checkpoint}
  other: {kind: evaluate, of: pretrain}
  many: {kind: train, data: d, matrix: {seed: [1]}}
"""


@pytest.mark.parametrize(("fields", "fault"), FAULTS.values(), ids=FAULTS)
def test_invalid_evaluation_is_one_fault_at_its_position(
    fields: str, fault: str, tmp_path: Path
) -> None:
    (line,) = faults_of(f"{HEAD}  measure: {{kind: evaluate{fields}}}\n{OTHERS}", tmp_path)
    assert line.startswith(fault)


def test_faults_of_a_stage_are_not_repeated_for_its_evaluation(tmp_path: Path) -> None:
    text = f"{HEAD}    epochs: 0\n  measure: {{kind: evaluate, of: pretrain}}\n"
    assert faults_of(text, tmp_path) == ["7:13: stages.pretrain.epochs: must be at least 1, not 0"]


def test_evaluation_names_published_rows_of_the_measured_kind(tmp_path: Path) -> None:
    rows = {"images/cat_small": "train", "scenes/cat_small": "finetune"}

    def load(row: str) -> Job:
        (tmp_path / "job.yaml").write_text(
            f"{HEAD}  measure: {{kind: evaluate, of: pretrain, published: {row}}}\n"
        )
        return load_job(tmp_path / "job.yaml", kinds=KINDS, published=rows, base_dir=tmp_path)

    assert load("images/cat_small").stages["measure"].published == "images/cat_small"
    with pytest.raises(
        SpecError, match="scenes/cat_small is of kind finetune, but this stage measures kind train"
    ):
        load("scenes/cat_small")


def test_document_keeps_what_an_evaluation_measures(tmp_path: Path) -> None:
    lines = (
        "  a: {kind: evaluate, of: segment}\n  b: {kind: evaluate, of: pretrain, checkpoint: "
        "/x/cat.pth}\n"
    )
    job = load_text(GOOD + lines, tmp_path)
    document = json.loads(json.dumps(job_document(job), allow_nan=False))
    assert job_from_document(document, kinds=KINDS, where="latest.json") == job


def _recipe(fields: str, folder: Path) -> dict[str, object]:
    job = load_text(f"{GOOD}  measure: {{{fields}}}\n", folder)
    keys = {"pretrain": "p", "search": "s", "segment": "g"}
    key_inputs = KeyInputs(data="", rerun=0, input_keys=keys, file_digests={})
    return dict(recipe_of(job, job.stages["measure"], key_inputs))


def test_recipe_has_kind_and_version_of_the_measured_stage(tmp_path: Path) -> None:
    recipe = _recipe("kind: evaluate, of: pretrain", tmp_path)
    assert recipe["kind"] == "evaluate"
    assert recipe["measures"] == {"kind": "train", "version": 1}
    assert recipe["inputs"] == {
        "checkpoint": {"key": "p", "output": "checkpoint"},
        "params_from": {"key": "s", "output": "best_params"},
    }
    assert _recipe("kind: evaluate, of: segment", tmp_path)["measures"] == {
        "kind": "finetune",
        "version": 1,
    }


def test_evaluation_has_the_same_recipe_by_stage_and_by_task(tmp_path: Path) -> None:
    by_stage = _recipe("kind: evaluate, of: segment", tmp_path)
    assert by_stage == _recipe(
        "kind: evaluate, task: finetune, data: d, checkpoint: segment.checkpoint", tmp_path
    )
    assert by_stage != _recipe("kind: evaluate, of: segment, overrides: {lr: 0.2}", tmp_path)
