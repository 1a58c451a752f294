"""A headless Chromium for tests that look at a page."""

from __future__ import annotations

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
        page.goto(path.as_uri())
        yield page
        browser.close()
    assert [url for url in requests if not url.startswith(("data:", path.as_uri()))] == []
    assert messages == []
