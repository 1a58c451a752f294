"""An address without a Ray cluster is reported within seconds, with what to do."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from ray._private.services import canonicalize_bootstrap_address

from orchestrator.cluster import address as addresses
from orchestrator.cluster.address import HeadWatch, check_address
from orchestrator.cluster.connection import connected
from orchestrator.errors import ClusterError

SUBMIT = "or run `ray job submit --address http://head:8265 -- python -m orchestrator run JOB`"
HERE = "127.0.0.1"


@contextmanager
def _listening(host: str, family: socket.AddressFamily = socket.AF_INET) -> Iterator[int]:
    """Yield the port of a server that accepts connections but never answers."""
    with socket.socket(family) as server:
        server.bind((host, 0))
        server.listen(10)
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (
            "ray://head:10001",
            f"this is an address for Ray Client, .*; use head:6379 on a machine .*, {SUBMIT}",
        ),
        (
            "http://head:8265",
            f"this is the address of a dashboard, .*; use head:6379 on a machine .*, {SUBMIT}",
        ),
        ("http://me:sEcReT@head:8265", f"cluster http://head:8265: cannot connect: .*, {SUBMIT}"),
        (
            "head",
            r"the address is not HOST:PORT; give HOST:PORT of the cluster's head \(port 6379 by "
            r"default\)",
        ),
        ("head:", "the address is not HOST:PORT; give HOST:PORT"),
        ("head:port", "the address is not HOST:PORT; give HOST:PORT"),
        ("a..b:6379", "cannot connect: .*; give HOST:PORT"),
        (f"{HERE}:99999", "cannot connect: .*; give HOST:PORT"),
        ("no-such-host.invalid:6379", "cannot connect: .*; give HOST:PORT"),
        (f"{HERE}:1", "cannot connect: Connection refused; give HOST:PORT"),
    ],
)
def test_an_address_without_a_cluster_is_refused(address: str, text: str) -> None:
    with pytest.raises(ClusterError, match=text) as caught:
        check_address(address)
    assert "sEcReT" not in str(caught.value)


def test_an_address_from_the_environment_is_checked_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    for address in (None, "auto"):
        with (
            pytest.raises(ClusterError, match="this is the address of a dashboard"),
            connected(address),
        ):
            pass


def test_a_server_that_never_answers_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "CONNECT_TIMEOUT_S", 0.2)
    with (
        _listening(HERE) as port,
        pytest.raises(ClusterError, match=f"{HERE}:{port}: cannot connect: timed out"),
    ):
        check_address(f"{HERE}:{port}")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_brackets_of_an_ipv6_address_are_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(addresses, "CONNECT_TIMEOUT_S", 0.2)
    with (
        _listening("::1", socket.AF_INET6) as port,
        pytest.raises(ClusterError, match="cannot connect: timed out"),
    ):
        check_address(f"[::1]:{port}")


class _Web(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""


def test_a_web_server_is_not_accepted_as_a_cluster() -> None:
    with HTTPServer((HERE, 0), _Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(
            ClusterError, match="no head of a Ray cluster answers there; it may be Ray's dashboard"
        ):
            check_address(f"{HERE}:{server.server_port}")
        server.shutdown()


@pytest.mark.parametrize("address", ["auto", None])
def test_error_names_the_file_of_a_cluster_that_has_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str | None
) -> None:
    """With `auto`, and in a submitted job, where Ray sets RAY_ADDRESS to the file's address."""
    file = tmp_path / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    gone = canonicalize_bootstrap_address(f"{HERE}:1")
    file.write_text(f"{gone}\n")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto" if address else str(gone))
    # Clusters of other tests may run on this machine.
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    text = (
        f"cluster {gone}: cannot connect: Connection refused; {file} names that cluster, which "
        f"has ended: delete"
    )
    with pytest.raises(ClusterError, match=text), connected(address):
        pass


def test_auto_without_a_cluster_names_ray_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    with pytest.raises(
        ClusterError,
        match="no Ray is running on this machine; run `ray start --head` first, or give",
    ):
        check_address("auto")


def test_relative_ray_tmpdir_becomes_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ray's processes have other current folders. With a relative path they would wait half a
    minute for each other."""
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", "file")
    with (
        pytest.raises(ClusterError, match=f"{tmp_path}/file/ray: Not a directory"),
        connected("local"),
    ):
        pass


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        (
            "x" * 100,
            (
                "the path of its folder, .*, is too long for sockets; set RAY_TMPDIR to a folder "
                "with a short"
            ),
        ),
        ("/proc/1", "/proc/1/ray: .*; set RAY_TMPDIR to a writable folder"),
        ("file", "file/ray: Not a directory; set RAY_TMPDIR to a writable folder"),
    ],
)
def test_error_names_the_folder_in_which_ray_cannot_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str, text: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / folder))
    with (
        pytest.raises(ClusterError, match=f"cannot start Ray on this machine: .*{text}"),
        connected("local"),
    ):
        pass


def test_a_head_that_is_silent_for_long_is_lost() -> None:
    now_s = [0.0]
    with _listening(HERE) as port:
        watch = HeadWatch(f"{HERE}:{port}", clock=lambda: now_s[0])
        now_s[0] = 1000
        assert watch.loss() is None
    # The silence begins with the first check after a pause of this process.
    for now_s[0] in (1100, 1140):
        assert watch.loss() is None
    now_s[0] = 1141
    text = watch.loss()
    assert text is not None
    assert text.startswith(
        f"cluster {HERE}:{port}: its head has not answered for 41 s; start it again, or give "
        "another"
    )


def test_a_head_that_answers_again_is_not_lost() -> None:
    now_s = [0.0]
    with socket.socket() as server:
        server.bind((HERE, 0))
        watch = HeadWatch(f"{HERE}:{server.getsockname()[1]}", clock=lambda: now_s[0])
        now_s[0] = 39
        assert watch.loss() is None
        server.listen()
        for now_s[0] in (45, 85):
            assert watch.loss() is None


OLD = """
import sys, ray
ray.__version__ = "2.9.0"
from orchestrator.cluster.connection import connected
from orchestrator.errors import ClusterError
try:
    with connected(sys.argv[1]):
        pass
except ClusterError as err:
    print(err)
"""


def test_error_for_another_ray_version_names_both_versions(cluster_address: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OLD, cluster_address],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    text = done.stdout
    assert "Version mismatch: The cluster was started with: Ray: 2.60.0 Python: 3." in text, (
        done.stderr
    )
    assert "was started with: Ray: 2.9.0 Python: 3." in text
    assert text.rstrip().endswith(
        "; run this command with the cluster's versions of Ray and Python, for example on one "
        "of its machines"
    )
