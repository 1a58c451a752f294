"""`orchestrator doctor` finds what is wrong with this machine, a store and a job's data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_bucket
from tests.s3_front import front, refusal
from tests.s3_server import IGNORING

JOB = """
name: counts
store: {store}
stages:
  first: {{kind: count, data: data}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a job and its data."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    (tmp_path / "job.yaml").write_text(JOB.format(store=tmp_path / "store"))
    return tmp_path


def _ask(
    folder: Path,
    *options: str,
    before: Sequence[str] = (),
    environment: Mapping[str, str] = {},
) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the exit code, and the last check of each name that is not ok."""
    command = [sys.executable, "-m", "tests.orchestrator", "doctor", "job.yaml", "--json", *options]
    # A cluster of other tests is not asked.
    environ = {**os.environ, "RAY_ADDRESS": "", **environment}
    process = subprocess.run(
        [*before, *command],
        cwd=folder,
        env=environ,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode in (0, 3), process.stderr[-5000:]
    checks = json.loads(process.stdout)["checks"]
    return process.returncode, {
        check["name"]: check for check in checks if check["verdict"] != "ok"
    }


def test_a_machine_without_faults_is_ok(folder: Path) -> None:
    exit_code, found = _ask(folder)
    assert exit_code == 0
    assert not {name for name, check in found.items() if check["verdict"] == "fault"}
    assert not list((folder / "store").glob("*"))  # nothing is left there


def test_a_missing_bucket_is_found(folder: Path, s3_endpoint: str) -> None:
    exit_code, found = _ask(folder, "--store", "s3://no-such-bucket/runs")
    assert exit_code == 3
    assert "create the bucket" in found["store"]["todo"]


def test_a_wrong_secret_is_found(folder: Path, bucket: str) -> None:
    def refuse(*_: object) -> Any:
        return refusal(403, "SignatureDoesNotMatch")

    with front(refuse) as server:
        environment = {"AWS_ENDPOINT_URL": server.url}
        exit_code, found = _ask(folder, "--store", f"s3://{bucket}", environment=environment)
    assert exit_code == 3
    assert "SignatureDoesNotMatch" in found["store"]["detail"]


def test_a_server_that_ignores_conditions_is_found(folder: Path, s3_endpoint: str) -> None:
    exit_code, found = _ask(folder, "--store", f"s3://{make_bucket(IGNORING)}/runs")
    assert exit_code == 0
    assert found["conditional writes"]["verdict"] == "warning"
    assert "only one run at a time" in found["conditional writes"]["todo"]


def test_a_clock_ahead_by_an_hour_is_found(folder: Path, bucket: str) -> None:
    hour_ahead = ["faketime", "-f", "+1h"]
    exit_code, found = _ask(folder, "--store", f"s3://{bucket}/runs", before=hour_ahead)
    assert exit_code == 3
    off_s, _, rest = found["clock against the store's"]["detail"].partition(" ")
    assert rest == "s ahead"
    assert 3590 <= float(off_s) <= 3700


def test_credentials_that_end_in_the_night_are_found(folder: Path, bucket: str) -> None:
    end = datetime.now(UTC) + timedelta(hours=5)
    environment = {"AWS_CREDENTIAL_EXPIRATION": end.strftime("%Y-%m-%dT%H:%M:%SZ")}
    options = ("--store", f"s3://{bucket}/runs")
    _, found = _ask(folder, *options, environment=environment)
    assert found["credentials"]["verdict"] == "warning"
    assert "renewed" in found["credentials"]["todo"]
    _, found = _ask(folder, *options, "--hours", "4", environment=environment)
    assert "credentials" not in found


def test_missing_data_are_found(folder: Path) -> None:
    (folder / "data" / "content.txt").unlink()
    exit_code, found = _ask(folder)
    assert exit_code == 3
    assert "content.txt" in found["data of first"]["detail"]


def test_a_full_disk_is_found(folder: Path) -> None:
    (folder / "small").mkdir()
    mount = f'mount -t tmpfs -o size=8m none {folder / "small"} && exec "$@"'
    before = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    exit_code, found = _ask(folder, before=before, environment={"TMPDIR": str(folder / "small")})
    assert exit_code == 3
    assert "small (temporary files) has 8 MiB free" in found["disk"]["detail"]
    assert "TMPDIR" in found["disk"]["todo"]


def test_shared_memory_of_64_mib_is_found(folder: Path) -> None:
    mount = 'mount -t tmpfs -o size=64m none /dev/shm && exec "$@"'
    exit_code, found = _ask(folder, before=["unshare", "--mount", "sh", "-c", mount, "sh"])
    assert exit_code == 3
    assert found["/dev/shm"]["detail"] == "64 MiB, 64 MiB of it free"


def test_256_open_files_are_found(folder: Path) -> None:
    exit_code, found = _ask(folder, before=["sh", "-c", 'ulimit -n 256 && exec "$@"', "sh"])
    assert exit_code == 3
    assert found["open files"]["detail"] == "at most 256 in a process"


def test_an_address_without_a_cluster_is_found(folder: Path) -> None:
    exit_code, found = _ask(folder, "--address", "127.0.0.1:1")
    assert exit_code == 3
    assert "cannot connect" in found["cluster"]["detail"]


def test_a_run_keeps_what_was_wrong_before_it_began(folder: Path) -> None:
    """The run ends when it finds no cluster, after its record was written."""
    few_files = ["sh", "-c", 'ulimit -n 256 && exec "$@"', "sh"]
    run = [sys.executable, "-m", "tests.orchestrator", "run", "job.yaml", "--address=127.0.0.1:1"]
    process = subprocess.run(
        [*few_files, *run], cwd=folder, check=False, capture_output=True, text=True, timeout=300
    )
    assert process.stderr.startswith(
        "doctor: fault    driver: open files: at most 256 in a process"
    )
    (kept,) = (folder / "store").glob("runs/*/doctor.json")
    verdicts = {check["name"]: check["verdict"] for check in json.loads(kept.read_text())["checks"]}
    assert (verdicts["open files"], verdicts["memory"]) == ("fault", "ok")
