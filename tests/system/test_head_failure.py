"""The machine with the head of a cluster is lost: the same command resumes on another cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from tests.ray_nodes import RayNode, run_shell, started_node

pytestmark = pytest.mark.slow

NUM_EPOCHS = 100
DRIVERS = ("head", "other")
"""Where the drivers of the two jobs are. The trainings of both are on the other machine."""
OTHER = "--labels=place=other"
"""The option of `ray start` on a machine that the trainings may use."""


@dataclass(frozen=True)
class Run:
    """The last run of a job: its record, and the texts of its events."""

    record: Any
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """What two jobs left when their cluster lost its head, and when they were submitted again."""

    epochs: dict[str, int]
    """How many epochs each training had finished when the head was killed, by the job's name."""
    lost: dict[str, Run]
    """The runs on the first cluster after the second one had finished the jobs."""
    resumed: dict[str, Run]
    statuses: dict[str, JobStatus]
    """How the jobs ended on the second cluster."""
    num_drivers_left: int
    """How many drivers still ran on the other machine of the first cluster."""


def _write_job(folder: Path, name: str) -> None:
    data = folder / f"data-{name}"
    data.mkdir()
    (data / "content.txt").write_text(name)
    training = {"kind": "count", "data": str(data), "epochs": NUM_EPOCHS, "epoch_s": 3.0}
    resources = {"resources": {"labels": {"place": "other"}}, "resumed_epoch_s": 0.0}
    job = {
        "name": name,
        "store": str(folder / "store"),
        "stages": {"train": {**training, **resources}},
    }
    (folder / "jobs" / f"{name}.yaml").write_text(json.dumps(job))


def _submit(node: RayNode, folder: Path, name: str, *options: str) -> JobSubmissionClient:
    """Submit a job as users do. Its submission ID is its name."""
    command = ["ray", "job", "submit", "--address", node.jobs_url, "--submission-id", name]
    command += ["--no-wait", "--working-dir", str(folder / "jobs"), *options]
    run_shell([*command, "--", "python", "-m", "tests.orchestrator", "run", f"{name}.yaml"], {})
    return node.job_client()


def _await(is_true: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 900
    while not is_true():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.2)


def _num_worked(folder: Path, name: str) -> int:
    """How many epochs the trainings of a job have worked, over all runs."""
    log = folder / f"data-{name}" / "worked.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def _runs(folder: Path, name: str) -> list[Run]:
    """The runs of a job, the oldest first."""
    found = []
    for path in sorted(folder.glob("store/runs/*/run.json")):
        record = json.loads(path.read_text())
        lines = "".join(part.read_text() for part in sorted(path.parent.glob("events/*.jsonl")))
        texts = tuple(json.loads(line)["event"]["text"] for line in lines.splitlines())
        found += [Run(record, texts)] if record["job"] == name else []
    return found


def _num_drivers(node: RayNode) -> int:
    """How many processes of the node are drivers."""
    found = 0
    for process in node.processes():
        with suppress(OSError):  # it may have ended meanwhile
            found += b"tests.orchestrator\0run" in Path(f"/proc/{process}/cmdline").read_bytes()
    return found


@pytest.fixture(scope="module")
def failure(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Failure:
    """The head is killed in the middle of two trainings, which are then submitted elsewhere."""
    folder = tmp_path_factory.mktemp("failure")
    (folder / "jobs").mkdir()
    for name in DRIVERS:
        _write_job(folder, name)
    with (
        started_node("--num-cpus=0") as head,
        started_node(
            "--num-cpus=2", OTHER, '--resources={"other": 1}', address=head.address
        ) as other,
    ):
        _submit(head, folder, "head")
        _submit(head, folder, "other", "--entrypoint-resources", '{"other": 0.01}')
        _await(lambda: all(_num_worked(folder, name) > 2 for name in DRIVERS), "no training")
        head.kill()
        epochs = {name: _num_worked(folder, name) for name in DRIVERS}
        with started_node("--num-cpus=2", OTHER) as second:
            statuses = {name: _end(_submit(second, folder, name), name) for name in DRIVERS}
        runs = {name: _runs(folder, name) for name in DRIVERS}
        return Failure(
            epochs=epochs,
            lost={name: lost for name, (lost, _) in runs.items()},
            resumed={name: resumed for name, (_, resumed) in runs.items()},
            statuses=statuses,
            num_drivers_left=_num_drivers(other),
        )


def _end(client: JobSubmissionClient, name: str) -> JobStatus:
    """How a submitted job ends."""
    _await(lambda: client.get_job_status(name).is_terminal(), f"{name} does not end")
    return client.get_job_status(name)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_job_whose_head_was_killed_resumes_on_another_cluster(
    failure: Failure, driver: str
) -> None:
    resumed = failure.resumed[driver]
    assert failure.statuses[driver] is JobStatus.SUCCEEDED, resumed.texts
    (beginning,) = (text for text in resumed.texts if text.startswith("resuming at epoch "))
    epoch = int(beginning.split()[-1].partition("/")[0])
    # The checkpoint of the last epoch may not have been complete.
    assert failure.epochs[driver] - 1 <= epoch < NUM_EPOCHS
    assert resumed.record["stages"]["train"]["metrics"] == {"total": NUM_EPOCHS}


def test_a_driver_on_another_machine_ends_when_the_head_is_lost(failure: Failure) -> None:
    record = failure.lost["other"].record
    assert record["state"] == "failed"
    assert "its head has not answered for" in record["error"]
    assert record["error"].endswith("and the same command resumes")
    assert failure.num_drivers_left == 0


def test_a_driver_that_was_killed_with_its_head_left_no_end(failure: Failure) -> None:
    assert failure.lost["head"].record["state"] == "running"
