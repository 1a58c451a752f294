"""A folder with a job, and an environment without torch and Ray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from tests.orchestrator.cli.command import JOB


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a valid job and the data that it names."""
    (tmp_path / "job.yaml").write_text(JOB)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "images" / split / name / "1.png")
    return tmp_path


@pytest.fixture
def poisoned(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing torch or ray fails."""
    for name in ("torch", "ray"):
        (tmp_path / "poison" / name).mkdir(parents=True)
        (tmp_path / "poison" / name / "__init__.py").write_text(
            f"raise ImportError('{name} was imported')"
        )
    return {"PYTHONPATH": f"{tmp_path / 'poison'}:{os.environ['PYTHONPATH']}"}
