"""`orchestrator doctor` finds what is wrong with the machines of a cluster, each with other
faults."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.connection import connected
from tests.conftest import ROOT
from tests.ray_nodes import hiding, places, start_machine

JOB = """
name: far
store: {folder}/store
stages:
  group: {{kind: count, data: {folder}/data, resources: {{workers: 2}}}}
"""
HOUR_AHEAD = """
import sys, time
if any(word.endswith("default_worker.py") for word in sys.orig_argv):
    real = time.time
    time.time = lambda: real() + 3600
"""
"""The clock of a machine's workers. Under faketime, Ray's own processes do not start."""


@dataclass(frozen=True)
class Answer:
    """What the doctor printed about the machines, by their label `place`."""

    exit_code: int
    checks: Mapping[str, list[dict[str, Any]]]

    def faults(self, place: str) -> dict[str, str]:
        """The details of the faults of a machine, by the name of the check."""
        found = (check for check in self.checks[place] if check["verdict"] == "fault")
        return {check["name"]: check["detail"] for check in found}


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory, cluster_address: str) -> Iterator[Answer]:
    """The answer about a cluster with three machines, of which two have faults of their own."""
    folder = tmp_path_factory.mktemp("doctor")
    (folder / "data").mkdir()
    (folder / "data" / "content.txt").write_text("content")
    (folder / "job.yaml").write_text(JOB.format(folder=folder))
    _install_fake_torch(folder / "other")
    (folder / "late").mkdir()
    (folder / "late" / "sitecustomize.py").write_text(HOUR_AHEAD)
    other = {"PYTHONPATH": f"{folder / 'other'}:{ROOT}"}
    late = {"PYTHONPATH": f"{folder / 'late'}:{ROOT}"}
    machines: list[subprocess.Popen[bytes]] = []
    try:
        with connected(cluster_address):
            hide = hiding(folder / "data")
            machines.append(start_machine("bare", cluster_address, before=hide, environment=other))
            gpu = "--num-gpus=1"
            machines.append(start_machine("late", cluster_address, gpu, environment=late))
            names = {name: place for place, name in places().items()}
        yield _ask(folder, cluster_address, names)
    finally:
        for machine in machines:
            machine.terminate()
            machine.wait()


def _install_fake_torch(folder: Path) -> None:
    (folder / "torch-9.9.0.dist-info").mkdir(parents=True)
    metadata = "Metadata-Version: 2.1\nName: torch\nVersion: 9.9.0\n"
    (folder / "torch-9.9.0.dist-info" / "METADATA").write_text(metadata)


def _ask(folder: Path, address: str, names: Mapping[str, str]) -> Answer:
    arguments = ["doctor", "job.yaml", "--address", address, "--json"]
    command = [sys.executable, "-m", "tests.orchestrator", *arguments]
    process = subprocess.run(
        command, cwd=folder, check=False, capture_output=True, text=True, timeout=900
    )
    assert process.returncode in (0, 3), process.stderr[-5000:]
    checks: dict[str, list[dict[str, Any]]] = {}
    for check in json.loads(process.stdout)["checks"]:
        place = names.get(check["node"].rpartition("/")[2], check["node"])
        checks.setdefault(place, []).append(check)
    return Answer(process.returncode, checks)


pytestmark = pytest.mark.slow


def test_each_machine_and_the_driver_are_checked(answer: Answer) -> None:
    assert set(answer.checks) == {"driver", "cluster", "here", "bare", "late"}
    assert answer.exit_code == 3
    assert answer.faults("driver") == {}
    (ray_version, python_version, reduce) = answer.checks["cluster"]
    assert [ray_version["name"], python_version["verdict"]] == ["ray of the cluster", "ok"]
    assert (reduce["name"], reduce["detail"][:7]) == ("all-reduce (gloo)", "3 ranks")


def test_data_missing_on_one_machine_are_found(answer: Answer) -> None:
    assert "content.txt" in answer.faults("bare")["data of group"]
    assert "data of group" not in answer.faults("here") | answer.faults("late")


def test_another_torch_on_one_machine_is_found(answer: Answer) -> None:
    assert "torch is 9.9.0, but 2." in answer.faults("bare")["packages"]
    assert "packages" not in answer.faults("here") | answer.faults("late")


def test_a_clock_ahead_by_an_hour_is_found(answer: Answer) -> None:
    name = "clock against the driver's"
    assert answer.faults("late")[name].endswith("s ahead")
    assert name not in answer.faults("here") | answer.faults("bare")


def test_a_listed_gpu_without_a_driver_is_found(answer: Answer) -> None:
    assert answer.faults("late")["GPUs"] == "1 of 1 GPUs cannot be used: torch finds no GPU"
    assert "GPUs" not in answer.faults("bare")
