"""Fixtures that tests share: a real Ray cluster, an S3 server, and a clean environment for both."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

ROOT = Path(__file__).parents[1]

AWS_OF_THIS_MACHINE = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_PROFILE")

# Tests share the cores, so torch must not start several threads that wait for each other. torch
# reads this variable at its import, which is before any fixture.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_BY_FIXTURE = ("jobs_url", "cluster")
_LONGEST = (
    *_BY_FIXTURE,
    "tests/system/test_quickstart_detectors.py",
    "tests/pipelines/pretrain/epoch/test_exact_resume.py",
    "tests/system/test_quickstart.py",
)
"""The longest groups, which start first so that none of them runs by itself at the end."""

# Tests seed the generator of the process.
_SYSTEM_RANDOM = random.SystemRandom()
_given_ports: set[int] = set()

# No deadline: a pause of the machine must not fail an example. The other settings come from the
# default profile, which differs in CI.
hypothesis.settings.register_profile("unhurried", hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("unhurried")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests for xdist: those with the cluster in one process, else one group per file.

    Tests that submit jobs are a separate group, to balance the load; each process has its own
    cluster.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    items.sort(
        key=lambda item: (
            _LONGEST.index(group) if (group := _group_of(item)) in _LONGEST else len(_LONGEST)
        )
    )
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group_of(item)))


def _group_of(item: pytest.Item) -> str:
    fixtures = getattr(item, "fixturenames", ())
    return next(
        (group for group in _BY_FIXTURE if group in fixtures), item.nodeid.partition("::")[0]
    )


@pytest.fixture(scope="session", autouse=True)
def environment() -> Iterator[None]:
    """Set the environment variables of Ray, AWS and the tests' processes."""
    with (
        tempfile.TemporaryDirectory(
            prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
        ) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in ("RAY_ADDRESS", *AWS_OF_THIS_MACHINE):
            patch.delenv(name, raising=False)
        for name, value in _environment(folder).items():
            patch.setenv(name, value)
        yield


def _environment(ray_folder: str) -> dict[str, str]:
    return {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        # The default is 2 s, longer than the run of most tests.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",
        # By default Ray gives its dashboard, which accepts the jobs, half a minute to start.
        "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "180",
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
        # A job goes to the cluster that this folder names as the current one, so each test process
        # has its own folder. Its name is short, because socket paths have a maximum length.
        "RAY_TMPDIR": ray_folder,
        # Submitted jobs call `python`.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),  # workers import kinds that tests define
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, environment: None) -> Iterator[Cluster]:
    """A cluster with 4 CPUs and 2 simulated GPUs, started once.

    It accepts jobs if a test of the session submits some.
    """
    from ray.cluster_utils import Cluster  # noqa: PLC0415  only the tests that use it pay for the import

    takes_jobs = any(
        "jobs_url" in getattr(item, "fixturenames", ()) for item in request.session.items
    )
    cluster = Cluster()
    _start_head(cluster, takes_jobs=takes_jobs)
    os.environ["RAY_ADDRESS"] = cluster.address
    yield cluster
    os.environ.pop("RAY_ADDRESS")
    cluster.shutdown()


def _start_head(cluster: Cluster, *, takes_jobs: bool) -> None:
    """Start the head node, with up to three tries.

    On a busy machine the raylet may need longer than the 30 s that Ray allows.
    """
    for tries_left in (2, 1, 0):
        try:
            cluster.add_node(
                num_cpus=4,
                num_gpus=2,
                labels={"place": "here"},
                include_dashboard=takes_jobs,
                dashboard_port=free_port(),
                # Jobs go to the agent that listens on this port. At the default port that can be
                # the agent of another cluster.
                dashboard_agent_listen_port=free_port(),
            )
        except Exception as err:
            if not tries_left or "timed out during startup" not in str(err):
                raise
        else:
            return


@pytest.fixture(scope="session")
def cluster_address(cluster: Cluster) -> str:
    address: str = cluster.address
    return address


@pytest.fixture(scope="session")
def jobs_url(cluster: Cluster) -> str:
    """The address of the cluster for `ray job submit`."""
    return f"http://{cluster.head_node.webui_url}"


@pytest.fixture(scope="session")
def s3_endpoint(environment: None) -> Iterator[str]:
    """The address of an S3 server process, also set in environment variables as a user would."""
    port = free_port()
    command = [sys.executable, "-m", "tests.s3_server", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    await_port(port, server)
    yield variables["AWS_ENDPOINT_URL"]
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value
    server.terminate()
    server.wait()


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now, another one at each call.

    The kernel gives higher ports to processes that ask for any, and Ray's workers take lower ones.
    So nobody takes it before the caller's process listens on it.
    """
    while True:
        port = _SYSTEM_RANDOM.randrange(20_000, 32_000)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            if port not in _given_ports:
                _given_ports.add(port)
                return port


def await_port(port: int, server: subprocess.Popen[bytes], timeout_s: float = 600) -> None:
    """Wait until the process `server` listens on a port of 127.0.0.1."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert server.poll() is None, "the S3 server ended"
            assert time.monotonic() < deadline, "the S3 server does not answer"
            time.sleep(0.1)
        else:
            return


@pytest.fixture
def bucket(s3_endpoint: str) -> str:
    """The name of a new, empty bucket."""
    return make_bucket("bucket")


def make_bucket(kind: str) -> str:
    """The name of a new, empty bucket; `tests/s3_server.py` describes the kinds."""
    import boto3  # noqa: PLC0415  only the tests that use it pay for the import

    name = f"{kind}-{uuid.uuid4().hex}"
    # A session of its own: the default one keeps the credentials of its first use.
    boto3.session.Session().client("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture(params=["folder", "s3"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty store: a folder in one run of a test, S3 in another."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return f"s3://{request.getfixturevalue('bucket')}/some/prefix"
