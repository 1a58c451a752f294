"""The live page in a real browser, during a run."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import opened_url
from tests.orchestrator.live.serving import WrittenRun, serving
from tests.orchestrator.report.page.test_browser import CONTRAST

LONG_MS = 120_000
"""Milliseconds that a condition may take on a busy machine."""
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)> {{ 7 * 7 }} " + "x" * 400


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    return WrittenRun(tmp_path)


def shows(page: Page, selector: str, text: str) -> None:
    """Wait until the page shows the text there."""
    expect(page.locator(selector).first).to_contain_text(text, timeout=LONG_MS)


def notice_shows(page: Page, text: str) -> None:
    shows(page, "#notice", text)
    assert page.locator("#notice").is_visible()


def test_progress_changes_without_a_reload(run: WrittenRun) -> None:
    run.begin()
    run.hear(3)
    with serving(run) as port, opened_url(f"http://127.0.0.1:{port}/") as page:
        shows(page, "#now .percent", "30%")
        page.evaluate("window.isSamePage = true")
        run.hear(4)
        shows(page, "#now .percent", "40%")
        shows(page, "ol.events li", "epoch 4/10")
        assert page.title() == "running 40% · small"
        assert "top1 32" in page.inner_text("#now .metrics >> nth=0")
        assert page.evaluate("window.isSamePage")


def test_an_update_keeps_what_the_reader_chose(run: WrittenRun) -> None:
    run.begin()
    run.hear(1)
    run.hear(2)
    with serving(run) as port, opened_url(f"http://127.0.0.1:{port}/") as page:
        shows(page, "#stage-1 .charts", "(2 points)")
        page.click("#stage-2 > summary")  # closes it
        page.click("#events > summary")
        sort = page.locator("#results-table th button").first
        sort.click()
        first = page.locator("#results-table tbody td >> nth=0")
        assert first.inner_text() == "measure"
        position = page.evaluate("window.scrollY")
        run.hear(3)
        shows(page, "#stage-1 .charts", "(3 points)")
        assert page.locator("details[open]#stage-2, details[open]#events").count() == 0
        assert first.inner_text() == "measure"
        assert sort.evaluate("button => document.activeElement === button")
        assert abs(page.evaluate("window.scrollY") - position) < 60


def test_a_store_that_is_away_is_named_and_the_page_recovers(run: WrittenRun) -> None:
    run.begin()
    run.hear(3)
    store, away = run.folder / "store", run.folder / "away"
    with serving(run) as port, opened_url(f"http://127.0.0.1:{port}/") as page:
        shows(page, "#summary", "1 running")
        store.rename(away)
        notice_shows(page, "store unreachable since ")
        assert "is missing, although it was there before; trying again" in page.inner_text(
            "#notice"
        )
        assert "30%" in page.inner_text("#now")
        assert page.locator("#summary").is_visible()
        away.rename(store)
        run.hear(5)
        shows(page, "#now .percent", "50%")
        expect(page.locator("#notice")).to_be_hidden(timeout=LONG_MS)


def test_a_page_without_its_server_says_so_and_reconnects(run: WrittenRun) -> None:
    run.begin()
    run.hear(3)
    with ExitStack() as stack:
        with serving(run) as port:
            lost = "net::ERR_"  # the console names each failed request
            page = stack.enter_context(opened_url(f"http://127.0.0.1:{port}/", expected=lost))
            shows(page, "#now .percent", "30%")
        notice_shows(page, "connection lost at ")
        run.hear(6)
        with serving(run, port=port):
            shows(page, "#now .percent", "60%")
            expect(page.locator("#notice")).to_be_hidden(timeout=LONG_MS)


def test_a_job_that_never_ran_shows_its_run_and_the_next_one(run: WrittenRun) -> None:
    with serving(run) as port, opened_url(f"http://127.0.0.1:{port}/") as page:
        shows(page, "#now", "It has not run yet")
        run.begin("20261130T100000-1")
        shows(page, "#now", "20261130T100000-1")
        run.end()
        shows(page, "#now", "run the same command again to resume")
        run.begin("20261130T110000-2")
        run.hear(2)
        shows(page, "#now", "20261130T110000-2")
        shows(page, "#now .percent", "20%")


def test_the_token_leaves_the_address_and_the_history(run: WrittenRun) -> None:
    run.begin()
    with serving(run, token="0123456789abcdef-secret") as port:
        url = f"http://127.0.0.1:{port}/"
        with opened_url(url, expected="status of 401") as page:
            assert "This page needs its token" in page.inner_text("body")
            page.goto(f"{url}?token=0123456789abcdef-secret")
            shows(page, "#now", "1 running")
            assert page.url == url
            page.go_back()
            assert "token" not in page.url


def test_hostile_text_stays_text_and_fits_the_window(run: WrittenRun) -> None:
    run.begin()
    run.hear(1)
    with serving(run) as port, opened_url(f"http://127.0.0.1:{port}/") as page:
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        shows(page, "#now .percent", "10%")
        run.hear(2, HOSTILE)  # comes in an update
        shows(page, "#now .event", "<script>alert(1)</script>")
        shows(page, "ol.events .what", "<img src=x onerror=alert(1)> {{ 7 * 7 }}")
        assert page.locator("img[src=x]").count() == 0
        for width in (400, 870, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") == width


def test_all_text_has_enough_contrast(run: WrittenRun) -> None:
    run.begin()
    run.hear(1)
    with serving(run) as port, opened_url(f"http://127.0.0.1:{port}/") as page:
        shows(page, "#summary", "1 running")
        page.evaluate("document.querySelector('#notice').hidden = false")
        page.evaluate("document.querySelector('#notice').textContent = 'store unreachable'")
        for theme in ("light", "dark"):
            page.evaluate(f"document.documentElement.dataset.theme = {theme!r}")
            assert page.evaluate(CONTRAST) == []
