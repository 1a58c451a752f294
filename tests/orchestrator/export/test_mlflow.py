"""Each finished stage becomes a run of an MLflow experiment, once.

mlflow is no dependency, so the test makes an environment with it on top of this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.orchestrator.cli.report.test_evaluation import STAGE, folder
from tests.orchestrator.cli.report.test_html import store

__all__ = ["folder", "store"]

READ = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
experiment = client.get_experiment_by_name("small")
runs = client.search_runs([experiment.experiment_id])
print(json.dumps([
    {"name": run.info.run_name, "status": run.info.status, **run.data.to_dictionary()}
    for run in runs
]))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has mlflow and all that this one has."""
    environment = tmp_path_factory.mktemp("mlflow")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    (site_packages / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
    interpreter = environment / "bin" / "python"
    uv = Path(sys.executable).parent / "uv"
    command = [str(uv), "pip", "install", "--quiet", "--python", str(interpreter), "mlflow-skinny"]
    subprocess.run(command, check=True)
    return interpreter


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[3]
    environment = {"PYTHONPATH": str(root), "MLFLOW_ALLOW_FILE_STORE": "true"}
    return subprocess.run(
        [python, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_a_finished_stage_is_logged_once(python: Path, folder: Path) -> None:
    uri = (folder / "mlruns").as_uri()
    export = ("-m", "orchestrator", "export", "mlflow", "job.yaml", uri)
    first, second = run(python, *export), run(python, *export)
    assert first.stdout == f"{uri}: 1 new runs of 1 finished stages\n", first.stderr
    assert second.stdout == f"{uri}: 0 new runs of 1 finished stages\n", second.stderr

    (logged,) = json.loads(run(python, "-c", READ, uri).stdout)
    found: dict[str, Any] = logged
    assert (found["name"], found["status"]) == (STAGE, "FINISHED")
    assert found["metrics"] == {"final_miou": 40.6}
    assert found["tags"]["orchestrator.kind"] == "evaluate"
    assert len(found["tags"]["orchestrator.key"]) == 64
    assert "blobs/sha256/" in found["tags"]["artifact.details/confusion.png"]


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_a_server_that_does_not_answer_is_out_of_reach(python: Path) -> None:
    done = run(python, "-m", "orchestrator", "export", "mlflow", "job.yaml", "http://127.0.0.1:1")
    assert done.returncode == 3
    assert done.stderr.startswith("export mlflow: http://127.0.0.1:1: ")


@pytest.mark.usefixtures("store")
def test_without_mlflow_the_error_says_how_to_install_it() -> None:
    command = [sys.executable, "-m", "orchestrator", "export", "mlflow", "job.yaml", "file:///x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "export mlflow: mlflow is not installed; run: pip install mlflow-skinny\n"
