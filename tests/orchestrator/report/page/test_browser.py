"""The page in a real browser: what a reader sees, and what a click does."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.history import StageState
from orchestrator.report import published_rows
from orchestrator.report.content import ReportContent
from orchestrator.report.page import make_page
from tests.browser import opened_page
from tests.orchestrator.report.page.content import page_content
from tests.orchestrator.report.page.test_page import HOSTILE

CONTRAST = """
() => {
  const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const parse = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const over = (top, bottom) => {
    const alpha = top.length > 3 ? top[3] : 1;
    return [0, 1, 2].map((i) => top[i] * alpha + bottom[i] * (1 - alpha));
  };
  const backOf = (element) => {
    const layers = [];
    for (let node = element; node; node = node.parentElement)
      layers.unshift(parse(getComputedStyle(node).backgroundColor));
    return layers.reduce((back, layer) => over(layer, back), [255, 255, 255]);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const element = text.parentElement;
    if (!text.data.trim() || !element.checkVisibility() || element.closest("svg")) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(backOf(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)}: ${text.data.trim().slice(0, 40)}`);
  }
  return found;
}
"""


@pytest.fixture
def content(tmp_path: Path) -> ReportContent:
    return page_content(tmp_path)


@pytest.fixture
def path(content: ReportContent, tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(make_page(content), encoding="utf-8")
    return path


def test_all_published_rows_are_there(path: Path) -> None:
    with opened_page(path) as page:
        rows = page.locator("table.paper tr.published")
        assert rows.count() == len(published_rows())


def test_a_click_on_a_header_sorts_and_a_second_one_reverses(path: Path) -> None:
    with opened_page(path) as page:
        page.click("text=By class")
        header = page.locator("table.classes th button").nth(1)
        header.click()
        names = page.locator("table.classes tbody tr td:first-child")
        assert names.all_inner_texts() == ["dog", "cat", "eel"]
        header.click()
        assert names.all_inner_texts() == ["cat", "dog", "eel"]  # no number: last


def test_a_click_changes_the_theme(path: Path) -> None:
    back = "() => getComputedStyle(document.body).backgroundColor"
    with opened_page(path) as page:
        light = page.evaluate(back)
        page.click("#theme")
        assert page.evaluate(back) != light
        page.click("#theme")
        assert page.evaluate(back) == light


def test_a_click_on_a_number_shows_where_it_comes_from(path: Path) -> None:
    with opened_page(path) as page:
        page.locator("#results-table a.number", has_text="81.50 %").first.click()
        panel = page.locator("#panel")
        assert "pretrain: top1 81.50 %" in panel.inner_text()
        assert "a" * 64 in panel.inner_text()
        page.keyboard.press("Escape")
        assert not panel.is_visible()


def test_the_pointer_on_a_chart_shows_the_value(path: Path) -> None:
    with opened_page(path) as page:
        chart = page.locator("svg.chart").first
        chart.scroll_into_view_if_needed()
        chart.hover()
        assert re.fullmatch(r"\d+(\.\d+)?: \d+(\.\d+)?", page.inner_text("#tip"))


def test_without_scripts_all_is_readable(path: Path) -> None:
    with opened_page(path, scripts=False) as page:
        page.locator("summary", has_text="Where these numbers come from").first.click()
        assert page.locator("text=commit ffffffffffff (clean)").first.is_visible()


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_no_page_is_wider_than_its_window(
    content: ReportContent, tmp_path: Path, width: int
) -> None:
    path = tmp_path / "hostile.html"
    states = {**content.states, "scenes": StageState("failed", " ".join(HOSTILE))}
    origin = replace(content.origin, store=HOSTILE[3], command=HOSTILE[3])
    remarks = tuple(HOSTILE)
    page_text = make_page(replace(content, states=states, origin=origin, remarks=remarks))
    path.write_text(page_text, encoding="utf-8")
    with opened_page(path, width=width) as page:
        page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
        assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_has_enough_contrast(path: Path, theme: str) -> None:
    with opened_page(path) as page:
        page.evaluate(f"document.documentElement.dataset.theme = {theme!r}")
        page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
        assert page.evaluate(CONTRAST) == []


def test_the_measure_of_contrast_finds_grey_on_white(path: Path) -> None:
    with opened_page(path) as page:
        page.evaluate("document.documentElement.dataset.theme = 'light'")
        page.evaluate("document.querySelector('h1').style.color = '#aaa'")
        (found,) = page.evaluate(CONTRAST)
        assert found.endswith(": Report of paper")
