"""The verb export, before it writes. tests/orchestrator/export has what it writes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.export import export
from orchestrator.errors import StoreError
from tests.orchestrator.cli.report.test_evaluation import folder
from tests.orchestrator.cli.report.test_html import store

__all__ = ["folder", "store"]


@pytest.mark.usefixtures("store")
def test_file_in_place_of_the_folder_of_events_is_named(folder: Path) -> None:
    (folder / "events").write_text("a file")
    arguments = parse_arguments(["export", "tensorboard", "job.yaml", "events"])
    with pytest.raises(StoreError, match=r"^events: cannot be written: Not a directory$"):
        export(arguments, io.StringIO())
