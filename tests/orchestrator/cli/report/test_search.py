"""`orchestrator report` of a job with a finished search, from a store as a run leaves it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.artifact import Manifest, Metric
from orchestrator.plan import Digests, Plan, PriorRuns, make_plan
from orchestrator.runs.journal import open_journal
from orchestrator.runs.last_run import write_last_run
from orchestrator.runs.record import RunState
from orchestrator.spec import load_job
from orchestrator.store import Store, open_store
from orchestrator.store.publish import (
    blob_name,
    load_manifest,
    manifest_name,
    publish_artifact,
    publish_manifest,
)
from orchestrator.trials import TRIALS_FILE
from pipelines import KINDS
from tests.orchestrator.cli.command import orchestrator
from tests.orchestrator.report.search.searched import asha_search

JOB = """
name: small
store: ./store
stages:
  search:
    kind: tune
    of: pretrain
    space: {lr: {loguniform: [1.0e-4, 1e-2]}, drop_path_rate: {uniform: [0.0, 0.3]}}
    num_trials: 26
  pretrain: {kind: pretrain, data: images, params_from: search.best_params, epochs: 27}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def _finish(folder: Path, trials: str) -> tuple[Store, Plan, str]:
    """Publish the search as finished, with `trials` as its trials file. Returns the store, the plan
    and the name of the file's blob."""
    job = load_job(folder / "job.yaml", kinds=KINDS, base_dir=folder)
    store, nothing = open_store(job.store), Digests("", {})
    prior = PriorRuns(is_done=lambda key: False, recipes={}, reruns={})
    plan = make_plan(job, digests=dict.fromkeys(job.stages, nothing), prior=prior)
    (folder / "output").mkdir()
    (folder / "output" / TRIALS_FILE).write_text(trials)
    (folder / "output" / "trials.parquet").write_text("for others")
    artifact = publish_artifact(store, folder / "output")
    manifest = Manifest(
        key=plan["search"].key,
        stage="search",
        kind="tune",
        recipe=plan["search"].recipe,
        params={},
        artifacts={"trials": artifact},
        metrics=(Metric(name="top1", value=80.95, num_samples=500),),
        provenance={},
    )
    publish_manifest(store, manifest)
    open_journal(store, plan, run_id="r").end(RunState.DONE)
    write_last_run(store, plan, run_id="r")
    (file,) = (file for file in artifact.files if file.path == TRIALS_FILE)
    return store, plan, blob_name(file.sha256)


@pytest.fixture
def searched(folder: Path) -> Path:
    _finish(folder, asha_search().model_dump_json())
    return folder


def test_report_shows_trials_without_torch_and_ray(
    searched: Path, poisoned: dict[str, str]
) -> None:
    done = orchestrator(searched, "report", "job.yaml", "--plots", "plots", env=poisoned)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "Search search" in done.stdout
    assert "\n26 trials: 14 finished, 10 stopped early, 2 failed\n" in done.stdout
    assert "\nimportance of params (fANOVA): lr " in done.stdout
    assert "█" not in done.stdout  # stdout is not a terminal
    assert len(list((searched / "plots" / "search").glob("*.svg"))) == 7


def test_json_has_the_search_and_csv_only_the_cells(searched: Path) -> None:
    document = json.loads(orchestrator(searched, "report", "job.yaml", "--json").stdout)
    search = document["searches"]["search"]
    assert search["best"] == 14
    assert search["num_finished"] == 14
    assert len(search["trials"]) == 26
    assert "trial" not in orchestrator(searched, "report", "job.yaml", "--format", "csv").stdout


def test_markdown_links_plots_relative_to_its_own_folder(searched: Path) -> None:
    (searched / "docs").mkdir()
    done = orchestrator(
        searched,
        "report",
        "job.yaml",
        "--format",
        "markdown",
        "--output",
        "docs/report.md",
        "--plots",
        "docs/plots",
    )
    assert done.returncode == 0
    assert done.stdout == ""
    assert done.stderr == ""
    text = (searched / "docs" / "report.md").read_text()
    links = [
        line.partition("](")[2].removesuffix(")")
        for line in text.splitlines()
        if line.startswith("![")
    ]
    assert "plots/search/parallel.svg" in links
    assert len(links) == 7
    assert all((searched / "docs" / link).is_file() for link in links)
    assert "![" not in orchestrator(searched, "report", "job.yaml", "--format", "markdown").stdout


def test_plots_that_cannot_be_written_exit_with_3(searched: Path) -> None:
    (searched / "file").write_text("")
    done = orchestrator(searched, "report", "job.yaml", "--plots", "file")
    assert done.returncode == 3
    assert done.stderr == "--plots file: cannot be written: Not a directory\n"


@pytest.mark.parametrize(
    "trials", ['[{"params": {"lr": 0.1}, "value": 3, "epoch": 2}]', '{"version": 2}', "["]
)
def test_trials_of_another_release_are_skipped_with_a_remark(folder: Path, trials: str) -> None:
    _finish(folder, trials)
    done = orchestrator(folder, "report", "job.yaml")
    assert done.returncode == 0
    assert re.search(r"\| search +\| top1 +\| +80\.95 % \|", done.stdout)
    assert done.stderr == (
        "note: stages.search: its trials are not shown: its trials.json is from another release; "
        "run again with --force search to create it again\n"
    )
    assert json.loads(orchestrator(folder, "report", "job.yaml", "--json").stdout)["searches"] == {}


def test_trials_lost_from_the_store_are_skipped_with_a_remark(folder: Path) -> None:
    store, _, blob = _finish(folder, asha_search().model_dump_json())
    store.delete(blob)
    done = orchestrator(folder, "report", "job.yaml")
    assert done.returncode == 0
    assert done.stderr.startswith(
        f"note: stages.search: its trials are not shown: store {folder}/store: {blob} "
    )
    assert done.stderr.count("\n") == 1


def test_search_that_published_no_trials_is_a_remark(folder: Path) -> None:
    store, plan, _ = _finish(folder, asha_search().model_dump_json())
    manifest = load_manifest(store, plan["search"].key)
    assert manifest is not None
    store.delete(manifest_name(manifest.key))
    publish_manifest(store, manifest.model_copy(update={"artifacts": {}}))
    done = orchestrator(folder, "report", "job.yaml")
    assert done.returncode == 0
    assert done.stderr == (
        "note: stages.search: its trials are not shown: the stage did not publish trials.json\n"
    )


def test_reader_of_a_report_may_close_the_pipe_early(folder: Path) -> None:
    _finish(folder, asha_search(500).model_dump_json())
    command = f"{sys.executable} -m orchestrator report job.yaml --json | head -1"
    done = subprocess.run(
        command, cwd=folder, shell=True, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""
