"""Refs between stages: unknown, of the wrong kind, outside the job, in cycles."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.artifact import Ref
from orchestrator.spec.resolve.links import find_cycles
from tests.orchestrator.spec.kinds import GOOD, load_text
from tests.orchestrator.spec.yaml.loader.test_loader import HEAD, faults_of

CIRCLE = """\
name: circle
store: s
stages:
  search: {kind: tune, of: first, space: {lr: {uniform: [0.1, 1]}}, num_trials: 1}
  first: {kind: finetune, backbone: second.checkpoint, data: d}
  second: {kind: train, data: d, params_from: search.best_params}
"""


@pytest.mark.parametrize(
    ("ref", "fault"),
    [
        ("pretrian.checkpoint", "unknown stage 'pretrian', did you mean 'pretrain'?"),
        ("nothing.checkpoint", "unknown stage 'nothing'; known: pretrain, segment"),
        (
            "pretrain.chekpoint",
            "pretrain (train) has no output 'chekpoint', did you mean 'checkpoint'?",
        ),
        ("pretrain.weights", "pretrain (train) has no output 'weights'; known: checkpoint, log"),
        ("pretrain.log", "needs an output of kind train.checkpoint, but pretrain.log is train.log"),
        ("pretrain", "must be written STAGE.OUTPUT, such as pretrain.checkpoint, not 'pretrain'"),
        ("'a b.c'", "must be written STAGE.OUTPUT, not 'a b.c'"),
        (
            "s3://b/x.pth",
            "must be an output of a stage, written STAGE.OUTPUT: 's3://b/x.pth' is outside the job",
        ),
        (
            "./cat.pth",
            "must be an output of a stage, written STAGE.OUTPUT: './cat.pth' is outside the job",
        ),
        (
            "cat_small.pth",
            (
                "must be an output of a stage, written STAGE.OUTPUT: 'cat_small.pth' is outside "
                "the job"
            ),
        ),
        ("null", "must be a string, not null"),
    ],
)
def test_invalid_ref_is_refused(ref: str, fault: str, tmp_path: Path) -> None:
    text = f"{HEAD}  segment: {{kind: finetune, data: d, backbone: {ref}}}\n"
    assert faults_of(text, tmp_path) == [f"7:48: stages.segment.backbone: {fault}"]


def test_ref_is_checked_even_if_other_params_are_wrong(tmp_path: Path) -> None:
    text = f"{HEAD}  segment: {{kind: finetune, lr: x, backbone: pretrian.checkpoint}}\n"
    assert [fault.split(": ")[1] for fault in faults_of(text, tmp_path)] == [
        "stages.segment.data",
        "stages.segment.lr",
        "stages.segment.backbone",
    ]


def test_stage_that_needs_itself_is_a_fault(tmp_path: Path) -> None:
    faults = faults_of(
        f"{HEAD}  loop: {{kind: finetune, backbone: loop.report, data: d}}\n", tmp_path
    )
    assert "7:36: stages.loop.backbone: a cycle of stages: loop -> loop" in faults


def test_cycle_through_a_search_is_reported_as_a_chain(tmp_path: Path) -> None:
    faults = faults_of(CIRCLE, tmp_path)
    assert [fault for fault in faults if "cycle" in fault] == [
        "4:28: stages.search.of: a cycle of stages: search -> second -> search"
    ]


@pytest.mark.parametrize(
    ("needs", "cycles"),
    [
        ({"a": ["b", "c"], "b": ["c"], "c": []}, []),
        ({"a": ["a"]}, [("a", "a")]),
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, [("b", "c", "b")]),
        ({"a": ["b", "c"], "b": ["a"], "c": ["a"]}, [("a", "b", "a"), ("a", "c", "a")]),
    ],
)
def test_find_cycles_yields_each_chain_once(
    needs: dict[str, list[str]], cycles: list[tuple[str, ...]]
) -> None:
    assert list(find_cycles(needs)) == cycles


def test_find_cycles_follows_chains_beyond_the_stack_limit() -> None:
    needs = {str(index): [str(index + 1)] for index in range(5000)} | {"5000": ["0"]}
    (chain,) = find_cycles(needs)
    assert len(chain) == 5002


def test_needs_are_inputs_and_searched_params_not_template(tmp_path: Path) -> None:
    stages = load_text(GOOD, tmp_path).stages
    assert stages["search"].needs == ()
    assert stages["pretrain"].needs == ("search",)
    assert stages["segment"].needs == ("pretrain",)
    assert stages["segment"].inputs == {"backbone": Ref("pretrain", "checkpoint")}


def test_search_needs_what_its_template_reads(tmp_path: Path) -> None:
    search = "  tuned: {kind: tune, of: segment, space: {lr: {uniform: [0.1, 1]}}, num_trials: 1}\n"
    assert load_text(GOOD + search, tmp_path).stages["tuned"].needs == ("pretrain",)


WITH_FILE = (
    HEAD + "  segment: {kind: finetune, data: d, backbone: pretrain.checkpoint, teacher: FILE}\n"
)


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("weights/cat.pth", "{here}/weights/cat.pth"),
        ("/srv/cat.pth", "/srv/cat.pth"),
        ("s3://bucket/a/cat.pth", "s3://bucket/a/cat.pth"),
        ("s3://bucket/cat.pth", "s3://bucket/cat.pth"),
    ],
)
def test_an_input_may_be_a_file_from_outside(text: str, location: str, tmp_path: Path) -> None:
    segment = load_text(WITH_FILE.replace("FILE", text), tmp_path).stages["segment"]
    assert segment.files == {"teacher": location.format(here=tmp_path)}
    assert segment.needs == ("pretrain",)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("~/cat.pth", "~ is not expanded; write the full path, not '~/cat.pth'"),
        (
            "s3://bucket",
            "a file from outside the job must be a path or s3://BUCKET/PREFIX/NAME, not "
            "'s3://bucket'",
        ),
        (
            "http://x/cat.pth",
            (
                "a file from outside the job must be a path or s3://BUCKET/PREFIX/NAME, not "
                "'http://x/cat.pth'"
            ),
        ),
        ("pretrian.checkpoint", "unknown stage 'pretrian', did you mean 'pretrain'?"),
    ],
)
def test_invalid_file_from_outside_is_refused(text: str, fault: str, tmp_path: Path) -> None:
    (line,) = faults_of(WITH_FILE.replace("FILE", text), tmp_path)
    assert line.partition("segment.teacher: ")[2] == fault
