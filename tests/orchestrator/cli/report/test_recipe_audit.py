"""The verb report shows the recipe audit from the store, in the terminal and as JSON."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.artifact import Manifest, Metric
from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.report import report
from orchestrator.plan import Digests, PriorRuns, make_plan
from orchestrator.recipe import recipe_audit
from orchestrator.runs.last_run import write_last_run
from orchestrator.spec import load_job
from orchestrator.store import open_store
from orchestrator.store.publish import publish_manifest
from pipelines import KINDS

ROOT = Path(__file__).parents[4]
JOB = """
name: audited
store: STORE
stages:
  pretrain: {kind: pretrain, data: d, epochs: 10, mixup: 0.0, precision: fp16}
"""


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    """The file of a job that has run once."""
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace("STORE", str(tmp_path / "store")))
    job = load_job(path, kinds=KINDS, published={}, base_dir=tmp_path)
    plan = make_plan(
        job, digests={"pretrain": Digests("d", {})}, prior=PriorRuns(lambda _: False, {}, {})
    )
    store = open_store(job.store)
    write_last_run(store, plan, run_id="r")
    manifest = Manifest(
        key=plan["pretrain"].key,
        stage="pretrain",
        kind="pretrain",
        recipe=plan["pretrain"].recipe,
        params={},
        recipe_audit=recipe_audit(job.stages["pretrain"].params),
        artifacts={},
        metrics=(Metric(name="top1", value=50.0, num_samples=10),),
        provenance={},
    )
    publish_manifest(store, manifest)
    return path


def _report(job_file: Path, *options: str) -> str:
    command = [sys.executable, "-m", "orchestrator", "report", str(job_file), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_terminal_has_a_recipe_audit_line_for_the_stage(job_file: Path) -> None:
    assert (
        "Recipe audit\n  pretrain: epochs 10 instead of 300; mixup 0.0 instead of 0.8\n"
        in _report(job_file)
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_wraps_the_recipe_audit_between_words(
    job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "50")
    assert report(parse_arguments(["report", str(job_file)]), terminal) == 0
    assert (
        "  pretrain: epochs 10 instead of 300; mixup 0.0\n    instead of 0.8\n"
        in terminal.getvalue()
    )


def test_json_recipe_audit_has_both_values(job_file: Path) -> None:
    audit = json.loads(_report(job_file, "--json"))["recipe_audit"]
    assert audit["pretrain"]["epochs"] == {"used": 10, "reference": 300}
