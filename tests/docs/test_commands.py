"""A reader who follows the README and the tutorial sees what these pages show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.console import Command, NewFile, Skipped, matches, steps

ROOT = Path(__file__).parents[2]
SHORTER = {
    "tutorial.yaml": """--set stages.train.epochs=2 --set 'stages.train.expect.top1=">= 0"'"""
}
"""What each job is run with here, so that its training takes a minute."""


def page_steps(page: str) -> list[Command | NewFile | Skipped]:
    return list(steps((ROOT / page).read_text()))


def shell(line: str, folder: Path) -> str:
    """What the command prints, on both streams."""
    for job, options in SHORTER.items():
        if line.startswith("orchestrator "):
            line = line.replace(job, f"{job} {options}")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.mark.slow
def test_the_tutorial_shows_what_its_reader_sees(tmp_path: Path) -> None:
    for step in page_steps("docs/tutorial.md"):
        match step:
            case NewFile(name, content):
                (tmp_path / name).write_text(content)
            case Command(line, shown):
                printed = shell(line, tmp_path)
                assert matches(shown, printed), f"$ {line}\n{printed}"


def test_blocks_that_no_test_runs_are_listed() -> None:
    skipped = [
        (page, step.reason)
        for page in ("README.md", "docs/tutorial.md")
        for step in page_steps(page)
        if isinstance(step, Skipped)
    ]
    assert skipped == [
        (
            "README.md",
            "tests/system/test_quickstart.py compares the output, with shorter trainings",
        ),
        ("README.md", ".ci/run does"),
        ("README.md", "it needs a cluster; tests/system/test_ray_jobs.py submits a smaller job"),
        ("docs/tutorial.md", "`make test` and `make demo` prove it on a clean clone"),
    ]
