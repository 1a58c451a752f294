"""Paths with `~`, `$NAME` and the like are refused in every field and never become a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli.arguments import parse_arguments
from orchestrator.errors import SpecError
from orchestrator.spec import load_job
from orchestrator.spec.locations import data_location, outside_file, store_uri
from pipelines import KINDS
from tests.orchestrator.spec.kinds import load_text

HEAD = "name: n\nstore: /s\nstages:\n"
PRETRAIN = "  pretrain: {kind: train, data: d}\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("$SCRATCH/runs", "$SCRATCH"),
        ("/x/${USER}/runs", "${USER}"),
        ("/x/${USER:-me}/runs", "${USER:-me}"),
        ("runs-$USER", "$USER"),
        ("$(pwd)/runs", "$(pwd)"),
        ("/x/`whoami`", "`whoami`"),
        ("%USERPROFILE%/runs", "%USERPROFILE%"),
        ("~", "~"),
        ("~/runs", "~"),
        ("~ada/runs", "~ada"),
        ("file:///$SCRATCH/runs", "$SCRATCH"),
        ("file:///~/runs", "~"),
        ("file://~/runs", "~"),
        ("s3://$BUCKET/runs", "$BUCKET"),
        ("s3://bucket/${USER}/runs", "${USER}"),
    ],
)
def test_what_a_shell_would_expand_is_refused(text: str, found: str) -> None:
    for location_of, suffix in ((store_uri, ""), (data_location, ""), (outside_file, "/cat.pth")):
        with pytest.raises(ValueError, match="is not expanded") as caught:
            location_of(text + suffix, Path("/here"))
        assert (
            str(caught.value)
            == f"{found} is not expanded; write the full path, not {text + suffix!r}"
        )


@pytest.mark.parametrize(
    "name",
    [
        "share$/images",
        "cost$",
        "a$5",
        "$",
        "50%",
        "a%20b%20c",
        "caf%C3%A9%20bar",
        "100%/50%",
        "a~b",
        "x/~y",
        "{a}",
    ],
)
def test_a_name_may_contain_dollar_percent_and_tilde(name: str) -> None:
    assert data_location(f"/srv/{name}", None) == f"/srv/{name}"


def test_a_name_that_a_shell_expands_is_accepted_as_a_uri() -> None:
    for location_of in (store_uri, data_location, outside_file):
        assert (
            location_of("file:///srv/%24RECYCLE.BIN/%25TEMP%25/w.pth", None)
            == "/srv/$RECYCLE.BIN/%TEMP%/w.pth"
        )


def test_a_secret_in_a_store_is_never_shown() -> None:
    with pytest.raises(ValueError, match="without credentials") as caught:
        store_uri("s3://key:pa$secret@bucket/x", None)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (HEAD.replace("/s", "$S/runs") + PRETRAIN, "2:8: store: $S is not"),
        (
            HEAD + "  pretrain: {kind: train, data: $D/digits}\n",
            "4:33: stages.pretrain.data: $D is not",
        ),
        (
            HEAD + "  pretrain: {kind: train, matrix: {data: [a, '$D/b']}}\n",
            "4:46: stages.pretrain.data: $D is not",
        ),
        (
            HEAD + "  pretrain: {kind: train, matrix: {epochs: [1, 2]}, data: 'd/${epochs}'}\n",
            "4:59: stages.pretrain.data: ${epochs} is not",
        ),
        (
            HEAD
            + PRETRAIN
            + "  s: {kind: finetune, data: d, backbone: pretrain.checkpoint, teacher: $W/best}\n",
            "5:72: stages.s.teacher: $W is not",
        ),
        (
            HEAD
            + PRETRAIN
            + "  e: {kind: evaluate, task: train, data: d, checkpoint: '%W%/best'}\n",
            "5:57: stages.e.checkpoint: %W% is not",
        ),
        (
            HEAD
            + PRETRAIN
            + "  e: {kind: evaluate, task: train, data: '${D}/d', checkpoint: /c.pth}\n",
            "5:42: stages.e.data: ${D} is not",
        ),
        (
            HEAD + PRETRAIN + "  e: {kind: evaluate, of: pretrain, overrides: {data: $D/d}}\n",
            "5:55: stages.e.overrides.data: $D is not",
        ),
        (
            HEAD
            + PRETRAIN
            + "  t: {kind: tune, of: pretrain, num_trials: 1, space: {lr: {uniform: [0.1, 0.2]}},"
            + " overrides: {data: $D/d}}\n",
            "5:102: stages.t.overrides.data: $D is not",
        ),
        ("extends: ~/base.yaml\n" + HEAD + PRETRAIN, "1:10: extends: ~ is not"),
        ("extends: ${JOBS}/base.yaml\n" + HEAD + PRETRAIN, "1:10: extends: ${JOBS} is not"),
    ],
)
def test_unexpanded_path_is_a_fault_at_its_position(text: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_text(text, tmp_path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{tmp_path}/job.yaml:{fault} expanded; ")


def test_unexpanded_path_on_the_command_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_text(HEAD + PRETRAIN, tmp_path, "stages.pretrain.data=$D", store="$S")
    assert str(caught.value).splitlines() == [
        "--store: $S is not expanded; write the full path, not '$S'",
        "--set stages.pretrain.data: $D is not expanded; write the full path, not '$D'",
    ]


def test_unexpanded_path_of_a_library_config_is_refused(tmp_path: Path) -> None:
    stage = (
        "  d: {kind: detection, data: d, init: scratch, model: cat_tiny, config: "
        "'mmdet::$C/a.py'}\n"
    )
    (tmp_path / "job.yaml").write_text(HEAD + stage)
    with pytest.raises(SpecError, match=r"4:73: stages\.d\.config: \$C is not expanded"):
        load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)


@pytest.mark.parametrize("option", ["--output=~/report.md", "--plots=~/plots"])
def test_report_is_never_written_to_a_folder_named_tilde(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(["report", "job.yaml", option])
    assert "~ is not expanded; write the full path, not '~/" in capsys.readouterr().err
