"""Kills and failures of real processes: only the work since the last checkpoint is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ray
from ray._private.state import available_resources_per_node

from orchestrator.cluster import stage as stage_module
from orchestrator.cluster.admission import shared_name
from orchestrator.cluster.connection import connected
from orchestrator.cluster.events import NAMESPACE
from orchestrator.planning import plan_job
from orchestrator.process import ONE_WISH_S
from orchestrator.progress import Update
from orchestrator.results import load_results, load_training
from orchestrator.run import run_plan
from orchestrator.spec import load_job
from orchestrator.store import open_store
from orchestrator.store.publish import fetch_artifact, load_manifest
from orchestrator.trials import TRIALS_FILE, Trials
from tests.orchestrator.counting import KINDS
from tests.ray_nodes import started_node
from tests.system.drivers import start_driver

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = pytest.mark.slow

LONG_GRACE = {"RAY_JOB_STOP_WAIT_TIME_S": "3601"}
"""A grace period longer than the test: a run that ends earlier did not wait for all of it."""


@pytest.fixture(autouse=True)
def idle_cluster(cluster: Cluster) -> None:
    """Wait until the cluster knows that the machines of the test before are gone, and nothing runs
    on it. Forget the runs whose driver that test has killed."""
    deadline_s = time.monotonic() + 300
    with connected(cluster.address):
        with suppress(ValueError):  # no run has needed it yet
            ray.kill(ray.get_actor(shared_name(), namespace=NAMESPACE))
        while not _is_idle(num_machines=len(cluster.list_all_nodes())):
            assert time.monotonic() < deadline_s, (ray.nodes(), ray.available_resources())
            time.sleep(0.2)


def _is_idle(*, num_machines: int) -> bool:
    num_alive = sum(node["Alive"] for node in ray.nodes())
    free, there = ray.available_resources(), ray.cluster_resources()
    return bool(num_alive == num_machines and free.get("CPU") == there.get("CPU"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    return tmp_path


def _write_job(folder: Path, **fields: object) -> Path:
    stages: dict[str, Mapping[str, object]] = {"only": {"kind": "count", "data": "data", **fields}}
    return _write(folder, stages)


def _write(folder: Path, stages: Mapping[str, object]) -> Path:
    (folder / "job.yaml").write_text(
        json.dumps({"name": "single", "store": "./store", "stages": stages})
    )
    return folder / "job.yaml"


def _start(folder: Path, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    sets = [word for override in overrides for word in ("--set", override)]
    return start_driver(folder, *sets, **environment)


def _await(
    folder: Path,
    pattern: str,
    driver: subprocess.Popen[str],
    count: int = 1,
    timeout_s: float = 600,
) -> None:
    """Wait until `count` folders have a file that matches the pattern."""
    deadline = time.monotonic() + timeout_s
    while len({path.parent for path in folder.glob(pattern)}) < count:
        assert driver.poll() is None, driver.communicate()[1][-5000:]
        assert time.monotonic() < deadline, f"no {pattern} in {timeout_s} s"
        time.sleep(0.1)


def _worked(folder: Path) -> list[str]:
    return (folder / "data" / "worked.log").read_text().splitlines()


def _epochs(last: int, gain: float = 1) -> list[str]:
    return [f"gain {gain:g} epoch {epoch}" for epoch in range(1, last + 1)]


def _records(folder: Path) -> list[Any]:
    return [
        json.loads(path.read_text()) for path in sorted((folder / "store").glob("runs/*/run.json"))
    ]


def test_an_interrupted_run_resumes_from_its_checkpoint(folder: Path, cluster_address: str) -> None:
    """This test uses SIGTERM. Tests of signals and of the quickstart cover SIGINT."""
    _write_job(folder, epochs=30, epoch_s=3, resources={"workers": 2})
    driver = _start(folder, **LONG_GRACE)
    _await(folder, "store/train/*/checkpoints/*.json", driver)
    driver.send_signal(signal.SIGTERM)
    _, errors = driver.communicate(timeout=600)
    assert driver.returncode == 130, errors[-5000:]
    assert "only: stopping: waiting up to 3600 s for checkpoints" in errors
    assert "interrupted; finished stages and checkpoints are kept" in errors
    (record,) = _records(folder)
    stage = record["stages"]["only"]
    last = len(_worked(folder))
    assert record["state"] == "interrupted"
    assert stage["state"] == "running"
    assert stage["lost_attempts"] == []
    assert stage["event"] == f"stopped after epoch {last}; its checkpoint is committed"
    assert _worked(folder) == _epochs(last)

    driver = _start(folder, "stages.only.epoch_s=0")
    _, errors = driver.communicate(timeout=600)
    assert driver.returncode == 0, errors[-5000:]
    assert _worked(folder) == _epochs(30)


def test_a_stage_killed_in_two_runs_has_one_curve(folder: Path, cluster_address: str) -> None:
    # An event may come 5 s late, and a worker outlives its driver by some seconds.
    _write_job(folder, epochs=9, epoch_s=6)
    for number in (1, 2):
        driver = _start(folder)
        _await_event(folder, number, f"epoch {2 * number}/9", driver)
        driver.kill()
        driver.communicate()
    driver = _start(folder, "stages.only.epoch_s=0")
    _, errors = driver.communicate(timeout=600)
    assert driver.returncode == 0, errors[-5000:]

    job = load_job(folder / "job.yaml", kinds=KINDS, base_dir=folder)
    store = open_store(job.store)
    results = load_results(job, store, kinds=KINDS)
    training = load_training(results, store, now_s=time.time())
    history = training.histories.stages[results.keys["only"]]
    curve = history.curves["total"]
    assert list(curve.done) == sorted(set(curve.done))
    assert list(curve.values) == list(curve.done)
    assert {1, 2, 4, 9} <= set(curve.done)
    runs = [record["run_id"] for record in _records(folder)]
    assert [attempt.run_id for attempt in history.attempts] == runs
    assert results.manifests["only"].provenance["runs"] == runs
    assert len(history.resumptions) == 2


def _await_event(folder: Path, run: int, start: str, driver: subprocess.Popen[str]) -> None:
    """Wait until an event in the store begins with `start`. It is one of the run with this number,
    from 1."""
    deadline = time.monotonic() + 600
    while not any(text.startswith(start) for text in _texts(folder, run)):
        assert driver.poll() is None, driver.communicate()[1][-5000:]
        assert time.monotonic() < deadline, f"no event {start}"
        time.sleep(0.1)


def _texts(folder: Path, run: int) -> list[str]:
    """The texts of the events of a run that are in the store."""
    runs = sorted(folder.glob("store/runs/*"))[run - 1 : run]
    parts = [part.read_text() for found in runs for part in found.glob("events/*.jsonl")]
    return [json.loads(line)["event"]["text"] for part in parts for line in part.splitlines()]


def test_a_second_signal_stops_waiting_for_a_stage(folder: Path, cluster_address: str) -> None:
    _write_job(folder, epochs=1000, epoch_s=3, is_deaf=True)
    driver = _start(folder, **LONG_GRACE)
    _await(folder, "data/worked.log", driver)
    driver.send_signal(signal.SIGTERM)
    # The record is written before the wait, because a SIGKILL may follow.
    while _records(folder)[0]["state"] != "interrupted":
        assert driver.poll() is None, "the driver did not wait for its stage"
        time.sleep(0.1)
    time.sleep(2 * ONE_WISH_S)  # signals that are closer together count as one
    driver.send_signal(signal.SIGTERM)
    _, errors = driver.communicate(timeout=600)
    assert driver.returncode == 130, errors[-5000:]


def test_an_interrupted_search_resumes_its_trials(folder: Path, cluster_address: str) -> None:
    search = {
        "kind": "tune",
        "of": "only",
        "space": {"gain": {"choice": [2.0]}},
        "num_trials": 3,
        "max_concurrent": 2,
    }
    only = {"kind": "count", "data": "data", "epochs": 30, "epoch_s": 2}
    _write(
        folder,
        {
            "search": {**search, "algorithm": {"name": "random"}, "scheduler": {"name": "none"}},
            "only": only,
        },
    )
    driver = _start(folder, "stages.only.params_from=search.best_params", **LONG_GRACE)
    _await(folder, "store/train/*/trials/*/checkpoints/*.json", driver, count=2)
    driver.send_signal(signal.SIGTERM)
    # The trials report that they have stopped, so the driver waits no longer.
    _, errors = driver.communicate(timeout=600)
    assert driver.returncode == 130, errors[-5000:]
    driver = _start(folder, "stages.only.params_from=search.best_params", "stages.only.epoch_s=0")
    _, errors = driver.communicate(timeout=600)
    assert driver.returncode == 0, errors[-5000:]
    # Three trials and the stage ran; no epoch ran twice.
    assert sorted(_worked(folder)) == sorted(4 * _epochs(30, gain=2))


def test_a_killed_search_ends_with_the_same_trials(folder: Path, cluster_address: str) -> None:
    """Two trials run at a time. When the driver is killed, each loses at most two epochs."""
    space = {"gain": {"uniform": [1.0, 2.0]}}
    search = {"kind": "tune", "of": "only", "space": space, "num_trials": 4, "max_concurrent": 2}
    only = {"kind": "count", "data": "data", "epochs": 30, "epoch_s": 1.5}
    _write(folder, {"search": {**search, "scheduler": {"name": "none"}}, "only": only})
    driver = _start(folder)
    _await(folder, "store/train/*/trials/00002/checkpoints/*.json", driver)
    driver.kill()
    driver.communicate()
    before = {path.parent.name: json.loads(path.read_text())["params"] for path in _logs(folder)}
    assert set(before) == {"00001", "00002"}
    driver = _start(folder, "stages.only.epoch_s=0")
    _, errors = driver.communicate(timeout=600)
    assert driver.returncode == 0, errors[-5000:]
    after = _published_trials(folder)
    assert set(after) == {"00001", "00002", "00003", "00004"}
    assert before.items() <= after.items()
    worked = _worked(folder)
    finished = [line for params in after.values() for line in _epochs(30, gain=params["gain"])]
    assert set(finished) <= set(worked)
    # The epochs of the searched stage itself are not epochs of trials.
    repeated = len(worked) - len(finished) - len(_epochs(30))
    assert repeated <= 4, (
        "each of the two trials repeats at most the epoch whose checkpoint was being written and "
        "the one after it"
    )


def _published_trials(folder: Path) -> dict[str, Any]:
    """The params of each trial of the finished search, by the trial's id."""
    store = open_store(str(folder / "store"))
    manifests = [load_manifest(store, path.stem) for path in folder.glob("store/manifests/*")]
    (search,) = [found for found in manifests if found is not None and found.kind == "tune"]
    fetched = fetch_artifact(store, search.artifacts["trials"], folder / "trials")
    trials = Trials.model_validate_json((fetched / TRIALS_FILE).read_text())
    return {trial.id: dict(trial.params) for trial in trials.trials}


def _logs(folder: Path) -> list[Path]:
    return sorted(folder.glob("store/train/*/trials/*/trial.json"))


class Watched:
    """A run in this process, with an action that is triggered by an event of a stage."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder = folder
        self._address = address
        self.texts: list[str] = []

    def run(self, *, at: str, act: Any) -> None:
        """Run the job; `act` is called once, in a thread, when an event begins with `at`."""
        job = load_job(self._folder / "job.yaml", kinds=KINDS, base_dir=self._folder)
        store = open_store(job.store)
        todo = [act]

        def watch(update: Update) -> None:
            self.texts.append(update.event.text)
            if todo and update.event.text.startswith(at):
                threading.Thread(target=todo.pop(), daemon=True).start()

        outcome = run_plan(plan_job(job, store), store, address=self._address, watch=watch)
        assert outcome.errors == {}

    def told(self, start: str) -> list[str]:
        """The texts of events that begin with `start`."""
        return [text for text in self.texts if text.startswith(start)]

    def groups(self) -> list[str]:
        """The texts of events about worker groups that start."""
        return [text for text in self.texts if re.match(r"starting \d", text)]


def test_a_group_that_loses_a_machine_continues_smaller(folder: Path, cluster: Cluster) -> None:
    resources = {"workers": [1, 3], "cpus_per_worker": 2}
    _write_job(folder, epochs=20, epoch_s=3, resumed_epoch_s=0, resources=resources)
    watched = Watched(folder, cluster.address)
    # With a GPU, as the first machine: workers without GPUs would otherwise keep to this one.
    with started_node("--num-cpus=2", "--num-gpus=1", address=cluster.address) as node:
        watched.run(at="epoch 2/", act=node.kill)
    assert watched.groups() == [
        "starting 3 workers (1 to 3)",
        "starting 2 workers (1 to 3)",
    ]
    worked = _worked(folder)
    assert sorted(set(worked)) == sorted(_epochs(20))
    assert len(worked) <= 20 + 2, (
        "at most the epoch whose checkpoint was being written and the current one run twice"
    )
    manifest = json.loads(next((folder / "store").glob("manifests/*.json")).read_text())
    provenance = manifest["provenance"]
    assert provenance["workers"] == 2
    assert [attempt["workers"] for attempt in provenance["attempts"]] == [3, 2]


SPARE = ("--num-cpus=1", "--labels=place=spare")
"""The options of `ray start` on a machine with a label of its own and one CPU."""


@pytest.fixture
def spare_machines(cluster: Cluster) -> Iterator[None]:
    with (
        started_node(*SPARE, address=cluster.address),
        started_node(*SPARE, address=cluster.address),
    ):
        yield


def _drain_busy_machine(address: str) -> None:
    """Send a busy spare machine the drain notice of a spot machine."""
    free = available_resources_per_node()
    spare = [node["NodeID"] for node in ray.nodes() if node["Labels"].get("place") == "spare"]
    busy = next(node for node in spare if free[node].get("CPU", 0) < 1)
    reason = (
        "--reason",
        "DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message",
        "spot",
        "--deadline-remaining-seconds",
    )
    subprocess.run(
        ["ray", "drain-node", "--address", address, "--node-id", busy, *reason, "120"], check=True
    )


@pytest.mark.parametrize("workers", [1, [1, 2]], ids=["one worker", "a group"])
@pytest.mark.usefixtures("spare_machines")
def test_a_stage_moves_when_its_machine_has_a_drain_notice(
    folder: Path, cluster: Cluster, workers: Any
) -> None:
    resources = {"workers": workers, "labels": {"place": "spare"}}
    _write_job(folder, epochs=60, epoch_s=2, resumed_epoch_s=0, resources=resources)
    watched = Watched(folder, cluster.address)
    watched.run(at="epoch 1/", act=lambda: _drain_busy_machine(cluster.address))
    assert watched.told("a machine is leaving") == ["a machine is leaving; attempt 2 of 4"]
    assert _worked(folder) == _epochs(60)


def test_a_group_that_moves_grows_onto_machines_that_have_joined(
    folder: Path, cluster: Cluster
) -> None:
    resources = {"workers": [1, 2], "labels": {"place": "spare"}}
    _write_job(folder, epochs=60, epoch_s=8, resumed_epoch_s=0, resources=resources)
    watched = Watched(folder, cluster.address)
    with ExitStack() as machines:

        def join() -> None:
            machines.enter_context(started_node(*SPARE, address=cluster.address))

        def join_and_drain() -> None:
            join()
            join()
            _drain_busy_machine(cluster.address)

        join()
        watched.run(at="epoch 1/", act=join_and_drain)
    assert watched.groups() == [
        "starting 1 worker (1 to 2)",
        "starting 2 workers (1 to 2)",
    ]
    assert _worked(folder) == _epochs(60)


def test_workers_that_wait_too_long_start_again(folder: Path, cluster_address: str) -> None:
    _write_job(
        folder, epochs=4, hangs_after=2, resources={"workers": 2, "collective_timeout_min": 0.5}
    )
    watched = Watched(folder, cluster_address)
    watched.run(at="never", act=None)
    why = "workers waited more than 0.5 minutes for each other; attempt 2 of 3"
    assert watched.told("workers waited") == [why]
    assert sorted(set(_worked(folder))) == _epochs(4)


def test_seals_contain_the_score_and_the_best_are_kept(
    folder: Path, cluster_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_module, "clear_training", lambda *_: None)
    _write_job(folder, epochs=5, keep_best=1)
    Watched(folder, cluster_address).run(at="never", act=None)
    seals = sorted((folder / "store").glob("train/*/checkpoints/*.json"))
    assert [json.loads(seal.read_text())["score"] for seal in seals] == [4.0, 5.0]


@pytest.mark.parametrize("process", ["raylet", "gcs_server"])
def test_a_local_ray_that_loses_a_process_ends_the_run(
    folder: Path, process: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    _write_job(folder, epochs=1000, epoch_s=0.5)
    driver = _start(folder)
    _await(folder, "store/train/*/checkpoints/*.json", driver)
    os.kill(_child_of(driver.pid, process), signal.SIGKILL)
    _, errors = driver.communicate(timeout=600)
    assert driver.returncode == 3, errors[-5000:]
    last = errors.splitlines()[-1]
    assert last.startswith(f"Ray's {process} on this machine was killed by SIGKILL")
    assert last.endswith("the same command resumes")
    (record,) = _records(folder)
    assert record["state"] == "failed"
    assert record["error"] == last


def _child_of(parent: int, name: str) -> int:
    """The process with this name that `parent` started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = stat.read_text().partition(" (")
        except OSError:  # it has ended meanwhile
            continue
        own_name, _, fields = rest.rpartition(") ")
        if own_name == name and int(fields.split()[1]) == parent:
            return int(pid)
    raise AssertionError(f"no {name} was started by {parent}")
