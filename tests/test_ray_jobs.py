"""`ray job submit` as its users type it, against a cluster and an S3 server on this machine."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from orchestrator.store import Store, open_store

ROOT = Path(__file__).parents[1]
SAMPLE = tuple(f"stages.{stage}.data=sample:digits" for stage in ("pretrain", "detection", "segmentation"))
SHORT = ("stages.search.num_trials=2", "stages.search.overrides={epochs: 1}", "stages.pretrain.epochs=4")


def _submit(jobs_url: str, endpoint: str, *options: str, overrides: tuple[str, ...] = (*SAMPLE, *SHORT)) -> str:
    """Submit jobs/quickstart.yaml with `options`; returns the submission's id."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    environment = {"AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
    sets = [word for override in overrides for word in ("--set", override)]
    command = [
        "ray",
        "job",
        "submit",
        "--address",
        jobs_url,
        "--working-dir",
        ".",
        "--submission-id",
        name,
        "--no-wait",
    ]
    command += ["--runtime-env-json", json.dumps({"env_vars": environment})]
    command += ["--", "python", "-m", "orchestrator", "run", "jobs/quickstart.yaml", *options, *sets]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return name


def _await_end(client: JobSubmissionClient, name: str, timeout_s: float = 600) -> JobStatus:
    deadline = time.monotonic() + timeout_s
    while not (status := client.get_job_status(name)).is_terminal():
        assert time.monotonic() < deadline, client.get_job_logs(name)[-5000:]
        time.sleep(0.5)
    return status


def _await_checkpoint(
    client: JobSubmissionClient, name: str, store: Store, ending: str, timeout_s: float = 400
) -> None:
    deadline = time.monotonic() + timeout_s
    while not any(found.endswith(ending) and "/trials/" not in found for found in store.names("train")):
        assert not client.get_job_status(name).is_terminal(), client.get_job_logs(name)[-5000:]
        assert time.monotonic() < deadline, f"no {ending} in {timeout_s} s"
        time.sleep(0.2)


def _records(store: Store) -> list[Any]:
    """run.json of every run, the first run first."""
    names = [name for name in store.names("runs") if name.endswith("/run.json")]
    return [json.loads(store.read(name) or b"") for name in names]


def _epochs(store: Store) -> list[str]:
    """`epoch 1/4` and so on, as the pretraining told them over all runs."""
    names = [name for name in store.names("runs") if "/events/" in name]
    events = [json.loads(line) for name in names for line in (store.read(name) or b"").splitlines()]
    texts = [event["event"]["text"] for event in events if event["stage"] == "pretrain"]
    return [" ".join(text.split()[:2]) for text in texts if text.startswith("epoch ")]


@pytest.mark.slow
def test_a_stopped_job_writes_its_state_and_goes_on_when_it_is_submitted_again(
    jobs_url: str, s3_endpoint: str, bucket: str
) -> None:
    client, store = JobSubmissionClient(jobs_url), open_store(f"s3://{bucket}/quick")
    first = _submit(jobs_url, s3_endpoint, "--store", store.uri, "--only", "pretrain")
    _await_checkpoint(client, first, store, "checkpoints/00000002.json")
    client.stop_job(first)
    assert _await_end(client, first) is JobStatus.STOPPED
    (record,) = _records(store)
    assert record["state"] == "interrupted"
    assert record["stages"]["search"]["state"] == "done"

    second = _submit(jobs_url, s3_endpoint, "--store", store.uri, "--only", "pretrain")
    assert _await_end(client, second) is JobStatus.SUCCEEDED, client.get_job_logs(second)[-5000:]
    assert _records(store)[-1]["stages"]["search"]["state"] == "reused"
    epochs = _epochs(store)
    assert epochs[-1] == "epoch 4/4"
    assert (epochs.count("epoch 1/4"), epochs.count("epoch 4/4")) == (1, 1)
    last_line = client.get_job_logs(second).strip().splitlines()[-1]
    assert last_line.startswith("quickstart: done: 2 stages, 1 of them reused; ")


@pytest.mark.slow
def test_a_job_with_relative_places_is_refused_with_the_reason(jobs_url: str, s3_endpoint: str) -> None:
    client = JobSubmissionClient(jobs_url)
    name = _submit(jobs_url, s3_endpoint, overrides=())
    assert _await_end(client, name) is JobStatus.FAILED
    assert client.get_job_info(name).driver_exit_code == 2
    logs = client.get_job_logs(name)
    assert "store: must be absolute, not './artifacts': in a Ray job the current folder is a copy" in logs
    assert "stages.pretrain.data: must be absolute, not 'data/digits'" in logs
    assert "Traceback" not in logs
