"""Counts the words and turns that plain English avoids, in docs, docstrings, comments, messages and
names of tests.

`python -m tests.docs.prose --max 2` is part of `make check`. CONTRIBUTING.md has the word list.
"""

from __future__ import annotations

import argparse
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("orchestrator", "cat_model", "pipelines", "benchmarks", "tests", "docs", "jobs")
AVOIDED = {
    "tell": r"\b(tell|tells|told|telling)\b",
    "stand": r"\b(stand|stands|stood|standing)\b",
    "beside": r"\bbesides?\b",
    "alone, for only": r"\balone\b",
    "is no X": r"\b(is|are|was|were) no (?!longer|more|such|one)\w+",
    "that of, those of": r"\b(that|those) (of|which|who|whose)\b",
    "anew, mend, thrice, whoever": r"\b(anew|mend\w*|thrice|whoever|whatever|wherever)\b",
    "come to": r"\b(comes?|came) to (?!the\b)",
    "go on": r"\b(go|goes|went|going) on\b",
    "Of, at the start of a docstring": r'^\s*"""(?-i:Of) [a-z]',
    "die, death": r"\b(die|dies|died|death|deaths)\b",
}


@dataclass(frozen=True)
class Line:
    path: Path
    number: int
    text: str


def prose() -> Iterator[Line]:
    """Every line of prose of the repository."""
    pages = [*ROOT.glob("*.md"), *_files("*.md")]
    for page in pages:
        yield from _lines_of_markdown(page)
    for module in _files("*.py"):
        if module != Path(__file__):
            yield from _lines_of_python(module)
    for job in _files("*.yaml"):
        for number, line in enumerate(job.read_text().splitlines(), 1):
            if "#" in line:
                yield Line(job, number, line.partition("#")[2])


def _files(pattern: str) -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob(pattern))


def _lines_of_markdown(page: Path) -> Iterator[Line]:
    """Without code, in blocks or in backticks."""
    is_code = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code and not line.startswith("    "):
            yield Line(page, number, re.sub(r"`[^`]*`", "", line))


def _lines_of_python(module: Path) -> Iterator[Line]:
    """Comments, texts that have a space, and names of tests."""
    with module.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT or _is_text(token):
                for offset, text in enumerate(token.string.splitlines()):
                    yield Line(module, token.start[0] + offset, text)
            elif token.type == tokenize.NAME and token.string.startswith("test_"):
                yield Line(module, token.start[0], token.string.replace("_", " "))


def _is_text(token: tokenize.TokenInfo) -> bool:
    # from Python 3.12 on, a formatted string is a token for each of its parts
    is_string = token.type in (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", None))
    return is_string and " " in token.string


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--max", type=float, help="exit with 1 if a turn is more frequent")
    parser.add_argument("--show", action="store_true", help="print each line that has one")
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    words = 0
    for line in prose():
        words += len(re.findall(r"[A-Za-z']+", line.text))
        for turn, pattern in AVOIDED.items():
            if hits := len(re.findall(pattern, line.text, re.IGNORECASE)):
                counts[turn] += hits
                if arguments.show:
                    print(
                        f"{line.path.relative_to(ROOT)}:{line.number}: {turn}: {line.text.strip()}"
                    )
    rates = {turn: 1e4 * counts[turn] / words for turn in AVOIDED}
    for turn, rate in rates.items():
        print(f"{turn:32} {counts[turn]:5} {rate:6.2f} per 10,000 words")
    too_frequent = [turn for turn, rate in rates.items() if arguments.max and rate > arguments.max]
    if too_frequent:
        print(f"too frequent (see --show): {'; '.join(too_frequent)}", file=sys.stderr)
    return 1 if too_frequent else 0


if __name__ == "__main__":
    sys.exit(main())
