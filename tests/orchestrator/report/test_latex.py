"""LaTeX: a booktabs table for each kind, with every character escaped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.report import make_cells, published_rows
from orchestrator.report.latex import escaped, make_latex
from tests.orchestrator.report.paper import load_paper, manifests


@pytest.fixture
def text(tmp_path: Path) -> str:
    job = load_paper(tmp_path, "scenes.max_iters=20000")
    kinds = {name: stage.kind.name for name, stage in job.stages.items()}
    return make_latex("my_job", make_cells(job, manifests(), rows=published_rows()), kinds)


def test_each_kind_has_a_table(text: str) -> None:
    assert re.findall(r"\\caption\{(.*)\}", text) == [
        r"my\_job: tune",
        r"my\_job: pretrain",
        r"my\_job: segmentation",
    ]
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 3


def test_the_published_number_is_below_ours(text: str) -> None:
    lines = text.splitlines()
    ours = next(index for index, line in enumerate(lines) if line.startswith("pretrain & 81.50"))
    assert lines[ours + 1].startswith(r"\quad published (reproduction) & 81.80")


def test_a_label_is_next_to_the_published_number(text: str) -> None:
    assert r"\quad published (short schedule)" in text


def test_all_rows_of_a_table_have_as_many_cells(text: str) -> None:
    for table in text.split(r"\begin{tabular}")[1:]:
        (columns,) = re.findall(r"^\{l(r*)\}", table)
        rows = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert {line.count(" & ") for line in rows} == {len(columns)}


@pytest.mark.parametrize(
    ("plain", "latex"),
    [
        ("a_b & 50 % of $x$", r"a\_b \& 50 \% of \$x\$"),
        ("{#1} ~^\\", r"\{\#1\} \textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("a\u202eb\x00c", "a b c"),
    ],
)
def test_special_characters_are_escaped(plain: str, latex: str) -> None:
    assert escaped(plain) == latex
