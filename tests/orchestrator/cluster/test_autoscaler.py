"""The driver asks a real autoscaler of Ray for machines. Only the machines are simulated."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from ray.util.placement_group import placement_group_table

from orchestrator.capacity import Capacity
from orchestrator.cluster.autoscaler import Answer, GroupRequest, asked_for, can_grow
from orchestrator.cluster.connection import all_machines, connected
from tests.autoscaling import autoscaling_cluster

WAIT_S = 120.0
"""For what takes up to ten seconds on an idle machine."""

OTHER_RUN = """
import sys, time
from ray.util.placement_group import placement_group_table

from orchestrator.capacity import Capacity
from orchestrator.cluster.autoscaler import asked_for
from orchestrator.cluster.connection import connected

with (
    connected(sys.argv[1]),
    asked_for(Capacity(2, 0), num_workers=int(sys.argv[2]), labels={}) as request,
):
    request.ask()
    print("asked", flush=True)
    time.sleep(3600)
"""

OTHER_WORKER = """
import sys, time
import ray
from orchestrator.cluster.connection import connected

@ray.remote(num_cpus=2)
class Worker:
    def ready(self): pass

with connected(sys.argv[1]):
    worker = Worker.remote()
    ray.get(worker.ready.remote())
    print("works", flush=True)
    time.sleep(3600)
"""


@pytest.fixture(scope="module")
def scaling_address() -> Iterator[str]:
    """A cluster that grows from no machine to two with 2 CPUs and one labelled with 1 GPU."""
    with autoscaling_cluster() as address:
        yield address


@pytest.fixture(scope="module")
def connection(scaling_address: str) -> Iterator[None]:
    with connected(scaling_address):
        yield


@pytest.fixture
def empty(connection: None) -> None:
    """The machines of the test before have left."""
    _await(lambda: _num_machines() == 0, "the machines leave")


def _num_machines() -> int:
    return len(all_machines()) - 1  # without the head


def _await(is_true: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.2)


def _await_answer(request: GroupRequest, *wanted: Answer) -> None:
    _await(lambda: request.ask() in wanted, f"an answer in {wanted}")


def _start(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start another driver, and return once it has printed a line."""
    driver = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    assert driver.stdout.readline()
    return driver


def _kill(*drivers: subprocess.Popen[str]) -> None:
    for driver in drivers:
        driver.kill()
        driver.wait()
        assert driver.stdout is not None
        driver.stdout.close()


@pytest.mark.usefixtures("empty")
def test_machines_join_for_a_group_and_are_free_for_its_workers() -> None:
    assert can_grow()
    worker = Capacity(2, 0)
    with asked_for(worker, num_workers=2, labels={}) as request:
        _await_answer(request, Answer.PLACED)
        assert _num_machines() == 2
        _await(lambda: sum(one.free.cpus for one in all_machines()) == 4, "given back")


@pytest.mark.usefixtures("empty")
def test_machine_is_chosen_by_its_labels() -> None:
    labels = {"ray.io/accelerator-type": "H100", "pool": "fast"}
    with asked_for(Capacity(1, 0), num_workers=1, labels=labels) as request:
        _await_answer(request, Answer.PLACED)
    [machine] = [one for one in all_machines() if one.capacity.gpus]
    assert labels.items() <= machine.labels.items()


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize(
    ("worker", "num_workers", "labels"),
    [
        (Capacity(3, 0), 1, {}),
        (Capacity(2, 0), 4, {}),
        (Capacity(1, 1), 1, {"ray.io/accelerator-type": "A100"}),
        (Capacity(1, 0, 10_000), 1, {}),
    ],
    ids=["machine too small", "too few machines", "no such label", "memory"],
)
def test_group_is_impossible_if_no_machines_can_be_started_for_it(
    worker: Capacity, num_workers: int, labels: dict[str, str]
) -> None:
    with asked_for(worker, num_workers=num_workers, labels=labels) as request:
        _await_answer(request, Answer.IMPOSSIBLE, Answer.PLACED, Answer.STARTING)
        assert request.ask() is Answer.IMPOSSIBLE


@pytest.mark.slow
@pytest.mark.usefixtures("empty")
def test_machines_in_use_are_not_counted_and_may_become_free(scaling_address: str) -> None:
    busy = _start(OTHER_WORKER, scaling_address)
    try:
        with asked_for(Capacity(2, 0), num_workers=2, labels={}) as request:
            _await_answer(request, Answer.PLACED)
            assert _num_machines() == 3
        with asked_for(Capacity(2, 0), num_workers=3, labels={}) as request:
            _await_answer(request, Answer.FULL)
            _kill(busy)
            _await_answer(request, Answer.PLACED)
    finally:
        _kill(busy)


@pytest.mark.usefixtures("empty")
def test_requests_of_several_runs_add_up_and_end_with_their_drivers(scaling_address: str) -> None:
    others = [_start(OTHER_RUN, scaling_address, "1")]
    try:
        others.append(_start(OTHER_RUN, scaling_address, "1"))
        _await(lambda: _num_machines() == 2, "a machine for each run")
    finally:
        _kill(*others)
    _await(lambda: _num_machines() == 0, "the machines leave")


@pytest.mark.usefixtures("connection")
def test_withdrawn_request_starts_no_machine() -> None:
    with asked_for(Capacity(2, 0), num_workers=2, labels={}) as request:
        request.ask()
    states = [row["state"] for row in placement_group_table().values()]
    assert set(states) == {"REMOVED"}


def test_cluster_of_fixed_size_cannot_grow(cluster_address: str) -> None:
    script = (
        "import sys\n"
        "from orchestrator.cluster.autoscaler import can_grow\n"
        "from orchestrator.cluster.connection import connected\n"
        "with connected(sys.argv[1]):\n"
        "    print(can_grow())\n"
    )
    command = [sys.executable, "-c", script, cluster_address]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
