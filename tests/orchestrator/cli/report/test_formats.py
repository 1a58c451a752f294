"""`orchestrator report` as users run it: its formats, its output file and published rows."""

from __future__ import annotations

import json
from pathlib import Path

from tests.orchestrator.cli.command import orchestrator


def test_report_of_an_empty_store_has_not_run_cells(folder: Path) -> None:
    done = orchestrator(folder, "report", "job.yaml", "--format", "json")
    cells = json.loads(done.stdout)["cells"]
    assert [(cell["stage"], cell["metric"], cell["verdict"]) for cell in cells] == [
        ("search", "top1", "not_run"),
        ("pretrain", "top1", "not_run"),
        ("pretrain", "top5", "not_run"),
        ("pretrain", "loss", "not_run"),
        ("pretrain", "images_per_s", "not_run"),
        ("pretrain", "data_wait", "not_run"),
    ]
    assert cells[1]["expected"] == ">= 50"
    assert set(cells[0]) == {
        *(
            "stage",
            "metric",
            "value",
            "unit",
            "expected",
            "published",
            "published_source",
            "delta",
            "verdict",
            "key",
        ),
        *("label", "differs", "split", "num_samples"),
    }


def test_report_is_written_to_the_output_file(folder: Path) -> None:
    done = orchestrator(folder, "report", "job.yaml", "--json", "--output", "report.json")
    assert done.returncode == 0
    assert done.stdout == ""
    assert json.loads((folder / "report.json").read_text())["job"] == "small"
    done = orchestrator(folder, "report", "job.yaml", "--output", "no/such/report.json")
    assert done.returncode == 3
    assert (
        "--output no/such/report.json: cannot be written: No such file or directory" in done.stderr
    )


def test_each_format_compares_with_published_numbers(folder: Path) -> None:
    options = ("report", "job.yaml", "--set", "stages.pretrain.published=imagenet1k/cat_tiny")
    cell = json.loads(orchestrator(folder, *options, "--json").stdout)["cells"][1]
    assert cell["published"] == 80.3
    assert cell["published_source"] == "arXiv 2106.05786, ImageNet-1K, CAT-T*"
    assert cell["label"] == "other recipe"
    assert cell["differs"] == "epochs 2 instead of 300; precision fp32 instead of fp16; lr searched"
    markdown = orchestrator(folder, *options, "--format", "markdown").stdout
    assert "| pretrain | top1 | - | >= 50 | 80.30 |  | other recipe | not_run |  |" in markdown
    command = f"orchestrator run job.yaml --set {options[-1]} --store {folder}/store"
    assert f"\nReproduce: `{command}`\n" in markdown
    note = "pretrain: not a reproduction of arXiv 2106.05786, ImageNet-1K, CAT-T* (other recipe)"
    assert (
        f"\n{note}: epochs 2 instead of 300; precision fp32 instead of fp16; lr searched\n"
        in orchestrator(folder, *options).stdout
    )


def test_csv_files_have_the_line_ends_of_rfc_4180(folder: Path) -> None:
    done = orchestrator(folder, "report", "job.yaml", "--format", "csv", "--output", "report.csv")
    assert done.returncode == 0
    assert done.stdout == ""
    header, *records, end = (folder / "report.csv").read_bytes().split(b"\r\n")
    assert header.startswith(b"stage,metric,value,unit,expected,published,")
    assert len(records) == 6
    assert end == b""


def test_unknown_published_row_is_a_fault(folder: Path) -> None:
    done = orchestrator(
        folder, "validate", "job.yaml", "--set", "stages.pretrain.published=imagenet1k/cat_smal"
    )
    assert done.returncode == 2
    fault = "unknown published row 'imagenet1k/cat_smal', did you mean 'imagenet1k/cat_small'?"
    assert done.stderr == f"--set stages.pretrain.published: {fault}\n"


def test_json_and_another_format_are_refused(folder: Path) -> None:
    done = orchestrator(folder, "report", "job.yaml", "--json", "--format", "csv")
    assert done.returncode == 2
    assert "argument --json: not allowed with argument --format csv" in done.stderr
