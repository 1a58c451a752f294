"""Fixtures for whole runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.planning import plan_job
from orchestrator.progress import Update
from orchestrator.run import Outcome, run_plan
from orchestrator.store import open_store
from tests.system.counting_runs import JOB, Runner, counting_job
from tests.system.drivers import kill_started


@pytest.fixture
def run(tmp_path: Path, cluster_address: str) -> Runner:
    """A function that runs JOB with overrides and returns its outcome and a watcher's updates."""

    def run_job(
        *overrides: str, text: str = JOB, only: tuple[str, ...] = ()
    ) -> tuple[Outcome, list[Update]]:
        job = counting_job(tmp_path, text, *overrides)
        store = open_store(job.store)
        heard: list[Update] = []
        outcome = run_plan(
            plan_job(job, store, only=only), store, address=cluster_address, watch=heard.append
        )
        return outcome, heard

    return run_job


@pytest.fixture(autouse=True)
def _no_driver_is_left() -> Iterator[None]:
    yield
    kill_started()


@pytest.fixture
def occupied(cluster_address: str) -> Iterator[subprocess.Popen[str]]:
    """A process of another user that holds all CPUs of the cluster until it ends."""
    code = (
        "import ray; ray.init(log_to_driver=False); ray.get(ray.util.placement_group([{'CPU': "
        "4}]).ready());print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code]
    holder = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    yield holder
    holder.terminate()
    holder.communicate()
