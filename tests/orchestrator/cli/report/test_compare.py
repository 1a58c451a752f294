"""`orchestrator report A B` with jobs that have and have no stage in common."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.report import report
from orchestrator.errors import JobError
from tests.orchestrator.cli.report.test_evaluation import JOB, STAGE, folder

__all__ = ["folder"]


def _report(*arguments: str) -> str:
    stream = io.StringIO()
    assert report(parse_arguments(["report", *arguments]), stream) == 0
    return stream.getvalue()


def test_a_job_that_never_ran_is_next_to_one_that_did(folder: Path) -> None:
    (folder / "other.yaml").write_text(JOB.replace("name: small", "name: other"))
    text = _report("job.yaml", "other.yaml")
    assert "small" in text
    assert "other" in text
    assert "40.60" in text


def test_json_has_every_value(folder: Path) -> None:
    (folder / "other.yaml").write_text(JOB.replace("name: small", "name: other"))
    document = json.loads(_report("job.yaml", "other.yaml", "--json"))
    (row,) = document["metrics"]
    assert (row["stage"], row["metric"]) == (STAGE, "miou")
    assert row["values"][0]["value"] == 40.6
    assert row["values"][1] is None


def test_jobs_without_a_common_stage_are_refused(folder: Path) -> None:
    other = JOB.replace("name: small", "name: other").replace("scenes", "views")
    (folder / "other.yaml").write_text(other.replace("measured", "looked_at"))
    with pytest.raises(JobError, match=r"^small, other: have no stage in common") as caught:
        _report("job.yaml", "other.yaml")
    assert caught.value.exit_code == 2


def test_a_comparison_has_no_html(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments(["report", "a.yaml", "b.yaml", "--format", "html"])
    assert caught.value.code == 2
    assert "several jobs: only --format terminal and json" in capsys.readouterr().err
