"""The messages on the troubleshooting page are messages of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.errors import catalogue

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
TITLE = re.compile(r"^### (`+) ?(.*?) ?\1$", re.MULTILINE)
SHOWN = [message for _, message in TITLE.findall(PAGE)]
FROM_PYDANTIC = "...: unknown field, did you mean '...'?"
"""A message of a library, which the code rewords; the tutorial's test sees it printed."""


@pytest.fixture(scope="module")
def messages() -> list[str]:
    """The text of every message, with `...` for values."""
    texts = (re.sub(r"\s+", " ", message.text) for message in catalogue())
    return [re.sub(r"\{(?!name: )[^{}]*(\{[^{}]*\}[^{}]*)*\}", "...", text) for text in texts]


@pytest.mark.parametrize("shown", [shown for shown in SHOWN if shown != FROM_PYDANTIC])
def test_each_message_is_in_the_code(shown: str, messages: list[str]) -> None:
    parts = [re.escape(part) for part in shown.split("...")]
    pattern = re.compile(".*".join(parts))
    assert any(pattern.fullmatch(message) for message in messages)


def test_every_title_is_a_message() -> None:
    assert len(SHOWN) == PAGE.count("\n### ")
