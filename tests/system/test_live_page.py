"""The live page of a real run: Chromium sees it progress and end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import expect

from tests.browser import opened_url
from tests.orchestrator.cli.test_dashboard import port_of

JOB = """
name: counts
store: ./store
stages:
  first: {kind: count, data: data, epochs: 20, epoch_s: 1.0}
"""
LONG_MS = 600_000
"""Milliseconds that a run may take on a busy machine."""


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.orchestrator", *arguments]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_page_follows_a_run_to_its_end(tmp_path: Path, cluster_address: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    (tmp_path / "job.yaml").write_text(JOB)
    with started(tmp_path, "dashboard", "job.yaml", "--port", "0") as dashboard:
        assert dashboard.stdout is not None
        port = port_of(dashboard.stdout.readline())
        with opened_url(f"http://127.0.0.1:{port}/") as page:
            expect(page.locator("#now")).to_contain_text("has not run yet", timeout=LONG_MS)
            page.evaluate("window.isSamePage = true")
            with started(tmp_path, "run", "job.yaml") as run:
                percents: set[str] = set()
                while len(percents) < 2:
                    percent = page.locator("#now .percent")
                    expect(percent).not_to_have_text("100%", timeout=LONG_MS)
                    percents.add(percent.inner_text(timeout=LONG_MS))
                    page.wait_for_timeout(500)
                run.wait(600)
                assert run.returncode == 0
            expect(page.locator("#now .verdict")).to_contain_text("done", timeout=LONG_MS)
            expect(page.locator("#results-table")).to_contain_text("20", timeout=LONG_MS)
            assert page.evaluate("window.isSamePage")
