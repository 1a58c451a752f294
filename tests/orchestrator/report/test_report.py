"""How each format of the report shows the same cells."""

from __future__ import annotations

import csv
import html
import io
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from pydantic import JsonValue
from rich.console import Console

from orchestrator.report import (
    Cell,
    CellVerdict,
    Origin,
    make_cells,
    make_csv,
    make_markdown,
    make_table,
    published_rows,
    report_json,
)
from tests.orchestrator.report.paper import load_paper, manifests

ORIGIN = Origin(
    "s3://bucket/paper", "20261125T150000-abc123", "orchestrator run jobs/paper.yaml", {}
)
PLAIN = Cell(
    stage="count",
    metric="total",
    value=5.0,
    unit="%",
    expected=">= 5",
    verdict=CellVerdict.PASS,
    key="c" * 64,
)


@pytest.fixture
def cells(tmp_path: Path) -> tuple[Cell, ...]:
    """The cells of an exact pretraining and of scenes with a short schedule."""
    job = load_paper(tmp_path, "scenes.max_iters=20000", "pretrain.expect={top1: '< 82'}")
    return make_cells(job, manifests(), rows=published_rows())


def _markdown_rows(text: str) -> list[list[str]]:
    """Return the texts of the table's cells by row, as a Markdown parser with tables renders
    them."""
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    rows = re.findall(r"<tr>(.*?)</tr>", rendered, re.DOTALL)
    return [
        [
            html.unescape(re.sub(r"<.*?>", "", cell))
            for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)
        ]
        for row in rows
    ]


def test_markdown_has_published_delta_label_and_key(cells: tuple[Cell, ...]) -> None:
    header, *rows = _markdown_rows(make_markdown("paper", cells, {}, ORIGIN))
    assert header == [
        "stage",
        "metric",
        "value",
        "expected",
        "published",
        "delta",
        "label",
        "verdict",
        "key",
    ]
    assert rows == [
        ["search", "top1", "-", "", "", "", "", "not_run", ""],
        [
            "pretrain",
            "top1",
            "81.50 %",
            "< 82",
            "81.80",
            "-0.30",
            "reproduction",
            "pass",
            "aaaaaaaa",
        ],
        ["pretrain", "top5", "95.70 %", "", "95.60", "+0.10", "reproduction", "", "aaaaaaaa"],
        ["scenes", "miou", "40.00 %", "", "40.60", "-0.60", "short schedule", "", "bbbbbbbb"],
        ["scenes", "macc", "52.00 %", "", "", "", "", "", "bbbbbbbb"],
        ["scenes", "aacc", "80.00 %", "", "", "", "", "", "bbbbbbbb"],
    ]


def test_markdown_lists_differences_and_the_run_command(cells: tuple[Cell, ...]) -> None:
    text = make_markdown("paper", cells, {}, ORIGIN)
    assert "\n- pretrain: follows the recipe of arXiv 2106.05786, ImageNet-1K, CAT-S\\*\n" in text
    scenes = (
        "not a reproduction of arXiv 2106.05786, ADE20K val, Semantic FPN CAT-S 80K (short "
        "schedule)"
    )
    assert f"\n- scenes: {scenes}: max_iters 20000 instead of 80000\n" in text
    assert "\nReproduce: `orchestrator run jobs/paper.yaml`\n" in text
    assert "Job `paper`, run `20261125T150000-abc123`, store `s3://bucket/paper`." in text
    assert text.endswith(".\n")


def test_markdown_notes_that_the_job_has_changed(cells: tuple[Cell, ...]) -> None:
    origin = Origin("/store", None, "orchestrator run job.yaml", {"scenes": "lr: 6e-05 -> 0.1"})
    text = make_markdown("paper", cells, {}, origin)
    assert (
        "- the report shows stages.scenes as last run; the job has changed since: lr: 6e-05 -> 0.1"
        in text
    )
    assert "Job `paper`, not run yet, store `/store`." in text


def test_markdown_escapes_markup_in_texts(cells: tuple[Cell, ...]) -> None:
    nasty = "a|b <script> _x_ [1](2) *y* box_map `code` & \\ \n# z"
    strange = cells[1].model_copy(update={"differs": nasty, "label": nasty})
    text = make_markdown("paper", (strange,), {}, Origin("/a`b", None, "run 'x`y'", {}))
    (_, row) = _markdown_rows(text)
    assert row[6] == " ".join(nasty.split())
    rendered = MarkdownIt("commonmark").render(text)
    assert not re.search("<(script|em|strong|a) ?", rendered)
    assert "<code>/a`b</code>" in rendered


@pytest.mark.parametrize("is_ascii", [True, False])
def test_table_without_published_rows_omits_their_columns(is_ascii: bool) -> None:
    table = make_table("counts", (PLAIN,), is_ascii=is_ascii)
    headers = [str(column.header) for column in table.columns]
    assert headers == ["stage", "metric", "value", "expected", "verdict", "key"]
    assert _markdown_rows(make_markdown("counts", (PLAIN,), {}, ORIGIN))[0] == headers


def test_table_has_each_stage_once_and_two_decimals() -> None:
    cells = (PLAIN, PLAIN.model_copy(update={"metric": "mean", "value": None, "verdict": None}))
    table = make_table("counts", cells, is_ascii=True)
    columns = {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}
    assert columns["stage"] == ["count", ""]
    assert columns["value"] == ["5.00 %", "-"]
    assert columns["verdict"] == ["pass", ""]


def test_terminal_fits_published_values_into_120_columns(cells: tuple[Cell, ...]) -> None:
    long = tuple(
        cell.model_copy(update={"stage": f"a-long-name/of_{cell.stage}-0"}) for cell in cells
    )
    stream = io.StringIO()
    Console(file=stream, width=120).print(make_table("paper", long, is_ascii=True))
    lines = stream.getvalue().splitlines()
    assert max(len(line) for line in lines) <= 120
    row = next(line for line in lines if "miou" in line)
    assert [part.strip() for part in row.split("|")[2:-1]] == [
        *("miou", "40.00 %", "", "40.60", "-0.60", "short schedule", "", "bbbbbbbb")
    ]


def test_csv_has_a_record_for_each_cell(cells: tuple[Cell, ...]) -> None:
    text = make_csv(cells, manifests())
    assert text.count("\r\n") == text.count("\n") == len(cells) + 1
    records = list(csv.DictReader(io.StringIO(text, newline="")))
    document = report_json("paper", cells, {})["cells"]
    assert isinstance(document, list)
    for record, cell in zip(records, document, strict=True):
        assert isinstance(cell, dict)
        shown = {name: "" if value is None else str(value) for name, value in cell.items()}
        assert {name: record[name] for name in cell} == shown


def test_csv_has_timms_columns_for_classifiers(cells: tuple[Cell, ...]) -> None:
    done = manifests()
    params: dict[str, JsonValue] = {"model": "cat_small", "crop_pct": 0.875}
    done["pretrain"] = done["pretrain"].model_copy(update={"params": params})
    records = list(csv.DictReader(io.StringIO(make_csv(cells, done), newline="")))
    of_stage = {record["stage"]: record for record in records}
    shown = [of_stage["pretrain"][name] for name in ("model", "top1", "top1_err", "crop_pct")]
    assert shown == ["cat_small", "81.5", "18.5", "0.875"]
    assert of_stage["scenes"]["model"] == ""


def test_json_and_csv_do_not_round(cells: tuple[Cell, ...]) -> None:
    third = cells[1].model_copy(update={"value": 100 / 3, "delta": 100 / 3 - 81.8})
    (record,) = csv.DictReader(io.StringIO(make_csv((third,)), newline=""))
    assert float(record["value"]) == 100 / 3
    assert float(record["delta"]) == 100 / 3 - 81.8
    assert report_json("paper", (third,), {})["cells"] == [third.model_dump(mode="json")]


def test_csv_field_with_commas_quotes_and_lines_is_quoted(cells: tuple[Cell, ...]) -> None:
    strange = cells[1].model_copy(update={"differs": 'a, "b"\nc'})
    (record,) = csv.DictReader(io.StringIO(make_csv((strange,)), newline=""))
    assert record["differs"] == 'a, "b"\nc'


@pytest.mark.parametrize(
    ("delta", "shown"),
    [
        (0.1 + 0.2, "+0.30"),
        (-0.304, "-0.30"),
        (-0.004, "+0.00"),
        (0.0, "+0.00"),
        (12.345, "+12.35"),
    ],
)
def test_delta_has_its_sign_and_two_decimals(
    cells: tuple[Cell, ...], delta: float, shown: str
) -> None:
    rows = _markdown_rows(
        make_markdown("paper", (cells[1].model_copy(update={"delta": delta}),), {}, ORIGIN)
    )
    assert rows[1][5] == shown
