"""The page as a text: what it says, what it may load, and what hostile text becomes."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from markupsafe import escape

from orchestrator.artifact import Metric
from orchestrator.history import Histories, StageState
from orchestrator.report import make_cells, published_rows
from orchestrator.report.content import ReportContent
from orchestrator.report.page import make_page
from tests.orchestrator.report.page.content import finished, page_content, picture


@pytest.fixture
def content(tmp_path: Path) -> ReportContent:
    return page_content(tmp_path)


def text_of(page: str) -> str:
    """The words of the page, without tags, style and script."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)))


def test_the_policy_forbids_all_but_the_script_of_the_page(content: ReportContent) -> None:
    page = make_page(content)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{digest}'; "
        "style-src 'unsafe-inline'; img-src data:"
    )


def test_nothing_is_loaded_from_elsewhere(content: ReportContent) -> None:
    page = make_page(content)
    sources = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    assert {source[:5] for source in sources if not source.startswith("#")} == {"data:"}
    assert "url(" not in page


@pytest.mark.parametrize(
    ("top1", "verdict", "sentence"),
    [
        (81.5, "met", "1 of 1 expectations met"),
        (70.0, "missed", "0 of 1 expectations met, 1 missed"),
    ],
)
def test_the_top_has_the_verdict(
    content: ReportContent, top1: float, verdict: str, sentence: str
) -> None:
    manifests = {
        name: manifest.model_copy(
            update={"metrics": (Metric(name="top1", value=top1, num_samples=50_000),)}
        )
        for name, manifest in content.manifests.items()
    }
    cells = make_cells(content.job, manifests, rows=published_rows())
    page = make_page(finished(replace(content, manifests=manifests, cells=cells)))
    (summary,) = re.findall(r'id="summary">(.*?)</section>', page, re.DOTALL)
    assert f'<span class="badge {verdict}">{verdict}</span>' in summary
    assert sentence in text_of(summary)


def test_a_failed_stage_warns_at_the_top_and_shows_its_error(content: ReportContent) -> None:
    page = make_page(content)
    (warning,) = re.findall(r'id="warnings".*?</section>', page, re.DOTALL)
    assert "scenes failed" in text_of(warning)
    (pending,) = re.findall(r'id="pending".*?</section>', page, re.DOTALL)
    assert "search has not run yet" in text_of(pending)
    assert "1 failed, 1 waiting of 4 stages; 1 of 1 expectations met" in text_of(page)
    assert "loss is NaN at iteration 120; lower `lr`" in text_of(page)


def test_a_finished_job_has_no_warning(content: ReportContent) -> None:
    page = make_page(finished(content))
    assert 'id="warnings"' not in page
    assert 'id="pending"' not in page


def test_every_published_row_is_on_the_page(content: ReportContent) -> None:
    page = text_of(make_page(content))
    assert [row for row in published_rows() if row not in page] == []


def test_published_rows_without_a_run_say_so(content: ReportContent) -> None:
    page = make_page(content)
    assert page.count(">not run</span>") >= len(published_rows()) - 1


def test_our_number_is_next_to_the_published_one_with_its_label(content: ReportContent) -> None:
    (row,) = re.findall(r"CAT-S\*<br>.*?</tr>\s*<tr>.*?</tr>", make_page(content), re.DOTALL)
    words = text_of(row)
    assert "81.8" in words
    assert "81.50" in words
    assert "-0.30" in words
    assert "reproduction" in words


def test_the_lineage_leads_from_a_number_to_bytes(content: ReportContent) -> None:
    page = make_page(content)
    (link,) = set(re.findall(r'href="#(lineage-[^"]*)" data-title="measured: top1', page))
    (lineage,) = re.findall(rf'id="{link}">(.*?)</details>', page, re.DOTALL)
    words = text_of(lineage)
    assert "commit ffffffffffff (clean)" in words
    assert "pretrain.checkpoint" in words
    assert "9" * 64 in words
    assert "7" * 64 in words
    assert "orchestrator run paper.yaml --only measured" in words


def test_older_manifests_say_that_the_code_is_not_recorded(content: ReportContent) -> None:
    manifests = {
        name: manifest.model_copy(update={"provenance": {}})
        for name, manifest in content.manifests.items()
    }
    assert "code not recorded" in text_of(make_page(replace(content, manifests=manifests)))


def test_damaged_details_are_named_and_the_rest_is_shown(content: ReportContent) -> None:
    files = {**content.details["measured"], "confusion.json": b"{", "painted/val_1.jpg": b"no"}
    words = text_of(make_page(replace(content, details={"measured": files})))
    assert "confusion.json is damaged and not shown" in words
    assert "painted/val_1.jpg is damaged and not shown" in words
    assert "By class (3)" in words


def test_pictures_without_room_are_counted(content: ReportContent) -> None:
    painted = {f"painted/{number}.jpg": picture((40, 40)) for number in range(11)}
    page = make_page(replace(content, details={"measured": painted}))
    assert page.count('src="data:image/jpeg') == 8
    assert "3 pictures are left out" in text_of(page)


def test_an_empty_store_makes_a_page_that_says_not_run(content: ReportContent) -> None:
    empty = replace(
        content,
        manifests={},
        cells=make_cells(content.job, {}, rows=published_rows()),
        audits={},
        states={},
        histories=Histories({}, ()),
        keys={},
        details={},
    )
    page = make_page(empty)
    assert '<span class="badge not-run">not run</span>' in page
    assert "pretrain has not run yet" in text_of(page)


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "\u202eevil\u202c",
    "x" * 300,
    "\N{GRINNING FACE} \N{FLAG IN HOLE}",
    "$\\frac{1}{2}$ and $x$",
    "{{ 7 * 7 }} {% raw %}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_stays_text(content: ReportContent, text: str) -> None:
    details = content.details["measured"]
    classes = details["per_class.json"].replace(b'"cat"', json.dumps(text).encode())
    hostile = replace(
        content,
        origin=replace(content.origin, store=text, command=text),
        states={**content.states, "scenes": StageState("failed", text)},
        details={"measured": {**details, "per_class.json": classes}},
        run_error=text,
        remarks=(text,),
    )
    page = make_page(hostile)
    assert page.count(str(escape(text))) >= 5
    assert page.count("<script") == 1
    assert "<img src=x" not in page
