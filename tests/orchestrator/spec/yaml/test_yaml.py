"""Any file or override results in a job or in a SpecError with one line per fault."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from tests.orchestrator.spec.kinds import GOOD, load_text

SIGNS = list("!%|'\"\\:#@`~{}[],\t \n\r\x85\u2028\ufeff\x00")
STARTS = [
    "!!",
    "&a",
    "*a",
    "---",
    "...",
    ">-\n",
    "? ",
    "- ",
    ": ",
    "\n  ",
    "<<",
    "!<%ff>",
    "%YAML 1.1\n",
    "|9\n",
]
VALUES = ['"\\x', '"\\ud800"', '!!int "3"', ".nan", "1e999", "9" * 50, "0x", "null", "s3://", ".."]
WORDS = [
    "search.best_params",
    "pretrain.checkpoint",
    "stages:",
    "of",
    "kind: tune",
    "kind: finetune",
]
FRAGMENTS = st.sampled_from([*SIGNS, *STARTS, *VALUES, *WORDS])
POSITIONS = st.integers(min_value=0, max_value=len(GOOD))


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """GOOD with up to four parts cut out or overwritten by a fragment."""
    text = GOOD
    for start in draw(st.lists(POSITIONS, min_size=1, max_size=4)):
        width = draw(st.integers(min_value=0, max_value=12))
        text = text[:start] + draw(FRAGMENTS | st.just("")) + text[start + width :]
    return text


def check(text: str, *overrides: str) -> None:
    refusal = None
    with tempfile.TemporaryDirectory() as folder:
        try:
            load_text(text, Path(folder), *overrides)
        except SpecError as err:
            refusal = err
    if refusal is not None:
        assert len(str(refusal).splitlines()) == len(refusal.faults) > 0


@settings(max_examples=150)
@given(damaged())
def test_damaged_file_raises_only_spec_errors(text: str) -> None:
    check(text)


@settings(max_examples=150)
@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_raises_only_spec_errors(text: str) -> None:
    check(text)


@settings(max_examples=100)
@given(
    st.lists(
        st.sampled_from(
            [
                "name",
                "seed",
                "stages",
                "stages.pretrain.model.depths",
                "stages.search.space.lr",
                "a.b",
            ]
        ),
        min_size=1,
        max_size=3,
    ),
    st.lists(FRAGMENTS | st.text(max_size=8), max_size=3).map("".join),
)
def test_any_override_raises_only_spec_errors(paths: list[str], value: str) -> None:
    check(GOOD, *(f"{path}={value}" for path in paths))
