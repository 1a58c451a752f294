"""A headless Chromium for tests that look at a page."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

ARGUMENTS = ["--no-sandbox", "--disable-background-networking"]


@contextmanager
def opened_page(path: Path, *, width: int = 1280, scripts: bool = True) -> Iterator[Page]:
    """The page as a user opens it from disk. On the way out: nothing but the file was loaded, and
    the console has no message."""
    with opened_url(path.as_uri(), width=width, scripts=scripts) as page:
        yield page


@contextmanager
def opened_url(
    url: str, *, width: int = 1280, scripts: bool = True, expected: str = "(?!)"
) -> Iterator[Page]:
    """The page at `url`. On the way out: nothing outside it was loaded, and the console has no
    message but those that match `expected`."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here: apt-get install chromium")
    requests: list[str] = []
    messages: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        context = browser.new_context(
            viewport={"width": width, "height": 900}, java_script_enabled=scripts
        )
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(url)
        yield page
        browser.close()
    assert [found for found in requests if not found.startswith(("data:", url))] == []
    assert [text for text in messages if not re.search(expected, text)] == []
