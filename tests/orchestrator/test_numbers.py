"""Numbers and sizes as tables show them."""

from __future__ import annotations

import pytest

from orchestrator.numbers import count_text, size_text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (65_504_091, "65.5 MB"),
        (999_499, "999 kB"),
        (999_600, "1 MB"),
        (2**31, "2.15 GB"),
        (5 * 10**15, "5e+03 TB"),
    ],
)
def test_sizes_have_three_digits(num_bytes: int, text: str) -> None:
    assert size_text(num_bytes) == text


def test_one_is_singular() -> None:
    assert [count_text(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
