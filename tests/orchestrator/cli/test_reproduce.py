"""`orchestrator reproduce` on stores without results, and the job that it reads."""

from __future__ import annotations

import io
import json
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.reproduce import reproduce
from orchestrator.errors import SpecError
from orchestrator.report import published_rows

ROOT = Path(__file__).parents[3]


def run(*options: str) -> tuple[int, str]:
    stream = io.StringIO()
    code = reproduce(parse_arguments(["reproduce", *options]), stream)
    return code, stream.getvalue()


def cells(folder: Path, *options: str) -> list[dict[str, Any]]:
    _, text = run("--store", str(folder), "--json", *options)
    found: list[dict[str, Any]] = json.loads(text)["cells"]
    return found


def test_an_empty_store_lists_every_number_as_not_run(tmp_path: Path) -> None:
    code, text = run("--store", str(tmp_path))
    num_metrics = sum(len(row.metrics) for row in published_rows().values())
    assert code == 1
    assert f"{num_metrics} published numbers: 0 pass, 0 fail, {num_metrics} not run" in text


def test_each_number_that_can_be_run_has_a_valid_command(tmp_path: Path) -> None:
    found = cells(tmp_path)
    without = {cell["row"] for cell in found if cell["command"] is None}
    assert without == {"imagenet1k/cat_tiny_v2"}
    for command in {cell["command"] for cell in found} - {None}:
        arguments = parse_arguments(shlex.split(command)[1:])
        assert arguments.job.exists()
        assert arguments.store == str(tmp_path)


def test_sizes_of_classifiers_come_from_an_evaluation(tmp_path: Path) -> None:
    stages = {(cell["row"], cell["metric"]): cell["stage"] for cell in cells(tmp_path)}
    assert stages["imagenet1k/cat_base", "params_m"] == "sizes/cat_base"
    assert stages["imagenet1k/cat_base", "throughput_v100"] == "sizes/cat_base"


@pytest.mark.parametrize(
    ("pattern", "num_rows"),
    [("coco", 12), ("coco/fcos/*", 2), ("imagenet1k/cat_small", 1), ("ade20k/", 4)],
)
def test_rows_are_chosen_by_name(tmp_path: Path, pattern: str, num_rows: int) -> None:
    assert len({cell["row"] for cell in cells(tmp_path, "--rows", pattern)}) == num_rows


def test_an_unknown_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^--rows: unknown row 'imagenet1k/cat_smal'") as caught:
        run("--store", str(tmp_path), "--rows", "imagenet1k/cat_smal")
    assert caught.value.exit_code == 2


def test_the_job_has_the_stages_of_the_published_rows() -> None:
    yaml = YAML(typ="safe", pure=True)
    own = yaml.load(files("orchestrator.report").joinpath("reproduce.yaml").read_text("utf-8"))
    published = yaml.load((ROOT / "jobs" / "published_rows.yaml").read_text())
    added = {"pretrain_tiny", "sizes", "sizes_tiny"}
    stages = {name: stage for name, stage in own["stages"].items() if name not in added}
    assert {**own, "stages": stages} == published
    assert added <= own["stages"].keys()
