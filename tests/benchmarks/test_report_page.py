"""The benchmark of large reports writes both formats of a small job and prints its figures."""

from __future__ import annotations

import re

import pytest

from benchmarks import report_page


def test_both_formats_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["report_page", "--stages", "3", "--points", "5"])
    # the figures of a busy machine decide nothing here
    monkeypatch.setattr(report_page, "MAX_S", 1e9)
    assert report_page.main() == 0
    output = capsys.readouterr().out
    assert "3 stages with 5 points each" in output
    for name in ("json", "html"):
        assert re.search(rf"^{name}: \d+\.\d s, \d+\.\d\d GiB, \d+\.\d MB$", output, re.MULTILINE)
