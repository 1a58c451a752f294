"""`orchestrator report --plots` fetches and shows the details of a finished evaluation."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from orchestrator.artifact import Manifest, Metric
from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.report import report
from orchestrator.errors import IntegrityError, StoreError
from orchestrator.plan import Digests, PriorRuns, make_plan
from orchestrator.runs.last_run import write_last_run
from orchestrator.spec import load_job
from orchestrator.store import open_store
from orchestrator.store.publish import blob_name, publish_artifact, publish_manifest, sha256_of
from pipelines import KINDS

JOB = """
name: small
store: ./store
stages:
  scenes: {kind: segmentation, data: ade20k, method: semantic_fpn, backbone: cat.pth,
    matrix: {seed: [1]}}
  measured: {kind: evaluate, of: scenes/*}
"""
FILES = {
    "confusion.png": "a picture",
    "painted/a b.jpg": "another",
    "per_class.csv": "class,iou",
    "predictions/000.png": "p",
    "predictions/001.png": "q",
}
STAGE = "measured/1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a job whose evaluation has finished."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)
    prior = PriorRuns(is_done=lambda key: False, recipes={}, reruns={})
    digests = {
        name: Digests("", {"backbone": "b"} if name == "scenes/1" else {}) for name in job.stages
    }
    plan = make_plan(job, digests=digests, prior=prior)
    for path, content in FILES.items():
        (tmp_path / "output" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "output" / path).write_text(content)
    store = open_store(job.store)
    manifest = Manifest(
        key=plan[STAGE].key,
        stage=STAGE,
        kind="evaluate",
        recipe=plan[STAGE].recipe,
        params={},
        artifacts={"details": publish_artifact(store, tmp_path / "output")},
        metrics=(Metric(name="miou", value=40.6, num_samples=2000),),
        provenance={},
    )
    publish_manifest(store, manifest)
    write_last_run(store, plan, run_id="r")
    return tmp_path


def _report(*options: str) -> str:
    stream = io.StringIO()
    report(parse_arguments(["report", "job.yaml", *options]), stream)
    return stream.getvalue()


def test_plots_option_fetches_details_that_markdown_links(folder: Path) -> None:
    (folder / "docs").mkdir()
    _report("--format", "markdown", "--plots", "docs/plots", "--output", "docs/report.md")
    fetched = folder / "docs/plots/measured/1"
    assert {path: (fetched / path).read_text() for path in FILES} == FILES
    text = (folder / "docs/report.md").read_text()
    assert "## Details of measured/1\n" in text
    assert "![confusion.png](<plots/measured/1/confusion.png>)" in text
    assert r"![painted/a b.jpg](<plots/measured/1/painted/a b.jpg>)" in text
    assert (
        "[per_class.csv](<plots/measured/1/per_class.csv>), predictions in 2 more files\n" in text
    )


def test_without_plots_nothing_is_fetched(folder: Path) -> None:
    assert "Details" not in _report("--format", "markdown")
    assert sorted(path.name for path in folder.iterdir()) == ["job.yaml", "output", "store"]


def test_details_lost_from_the_store_are_an_error(folder: Path) -> None:
    (folder / "store" / blob_name(sha256_of(folder / "output/per_class.csv"))).unlink()
    with pytest.raises(
        IntegrityError, match=r"is missing \(per_class\.csv\), of manifests/.*--repair"
    ):
        _report("--plots", "plots")


def test_details_that_cannot_be_written_are_blamed_on_the_option(folder: Path) -> None:
    (folder / "plots").write_text("a file")
    with pytest.raises(StoreError, match=r"^--plots plots: cannot be written: Not a directory$"):
        _report("--plots", "plots")
