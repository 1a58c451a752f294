"""`ray job submit` as users type it, with a cluster and an S3 server on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from orchestrator.store import Store, open_store

ROOT = Path(__file__).parents[2]
SAMPLE = tuple(
    f"stages.{stage}.data=sample:digits" for stage in ("pretrain", "detection", "segmentation")
)
SHORT = (
    "stages.search.num_trials=2",
    "stages.search.overrides={epochs: 1}",
    "stages.pretrain.epochs=4",
    "stages.pretrain.data_fraction=0.3",
)
SHORT_TOY = (
    *(f"stages.{stage}.data_fraction=0.3" for stage in ("pretrain", "pretrain_searched")),
    *(f"stages.{stage}.img_scale=[64, 64]" for stage in ("coco", "coco_ms")),
)


def _submit(
    jobs_url: str, endpoint: str, job: str, *options: str, overrides: tuple[str, ...] = ()
) -> str:
    """Submit a file of jobs/ with `options`; return the submission ID."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
    }
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
    command += ["--", "python", "-m", "orchestrator", "run", f"jobs/{job}", *options, *sets]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=600)
    return name


def _await_end(client: JobSubmissionClient, name: str, timeout_s: float = 3600) -> JobStatus:
    deadline = time.monotonic() + timeout_s
    while not (status := client.get_job_status(name)).is_terminal():
        assert time.monotonic() < deadline, client.get_job_logs(name)[-5000:]
        time.sleep(0.5)
    return status


def _await_checkpoint(
    client: JobSubmissionClient,
    name: str,
    store: Store,
    *,
    of_trial: bool = False,
    timeout_s: float = 1200,
) -> None:
    """Wait for a checkpoint of a stage, or of a trial."""
    deadline = time.monotonic() + timeout_s
    while not any(
        "/checkpoints/" in found and ("/trials/" in found) is of_trial
        for found in store.names("train")
    ):
        assert not client.get_job_status(name).is_terminal(), client.get_job_logs(name)[-5000:]
        assert time.monotonic() < deadline, f"no checkpoint in {timeout_s} s"
        time.sleep(0.2)


def _records(store: Store) -> list[Any]:
    """The run.json of every run, the oldest first."""
    names = [name for name in store.names("runs") if name.endswith("/run.json")]
    return [json.loads(store.read(name) or b"") for name in names]


def _trainings_in_rays_api(jobs_url: str) -> set[str]:
    """Names of the runs that Ray's dashboard lists."""
    with urllib.request.urlopen(f"{jobs_url}/api/train/v2/runs/v1", timeout=600) as answer:
        return {run["name"] for run in json.load(answer)["train_runs"]}


def _epochs(store: Store) -> list[str]:
    """The events `epoch 1/8` and so on that the pretraining logged, over all runs."""
    names = [name for name in store.names("runs") if "/events/" in name]
    events = [json.loads(line) for name in names for line in (store.read(name) or b"").splitlines()]
    texts = [event["event"]["text"] for event in events if event["stage"] == "pretrain"]
    return [" ".join(text.split()[:2]) for text in texts if text.startswith("epoch ")]


def _kill_driver(store: Store) -> None:
    """Send SIGKILL to the driver of the job whose store is `store`."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may have ended meanwhile
            words = (process / "cmdline").read_bytes().decode().split("\0")
            if words[1:3] == ["-m", "orchestrator"] and store.uri in words:
                os.kill(int(process.name), signal.SIGKILL)
                return
    raise AssertionError(f"no driver of {store.uri}")


@pytest.mark.slow
def test_a_killed_job_resumes_when_submitted_again(
    jobs_url: str, s3_endpoint: str, bucket: str
) -> None:
    client, store = JobSubmissionClient(jobs_url), open_store(f"s3://{bucket}/quick")
    command = (jobs_url, s3_endpoint, "quickstart.yaml", "--store", store.uri, "--only", "search")
    # No scheduler: it may stop a trial before its first checkpoint is committed.
    each_finishes = ("stages.search.overrides={epochs: 3}", "stages.search.scheduler={name: none}")
    overrides = (*SAMPLE, *SHORT, *each_finishes)
    first = _submit(*command, overrides=overrides)
    _await_checkpoint(client, first, store, of_trial=True)
    _kill_driver(store)
    assert _await_end(client, first) is JobStatus.FAILED
    second = _submit(*command, overrides=overrides)
    assert _await_end(client, second) is JobStatus.SUCCEEDED, client.get_job_logs(second)[-5000:]
    assert store.names("train") == []
    names = [name for name in store.names("runs") if "/events/" in name]
    events = [json.loads(line) for name in names for line in (store.read(name) or b"").splitlines()]
    trials = {event["trial"] for event in events if event["trial"] is not None}
    assert trials == {"00001", "00002"}, "a trial started again under another name"


@pytest.mark.slow
def test_a_stopped_job_resumes_when_submitted_again(
    jobs_url: str, s3_endpoint: str, bucket: str
) -> None:
    client, store = JobSubmissionClient(jobs_url), open_store(f"s3://{bucket}/quick")
    command = (jobs_url, s3_endpoint, "quickstart.yaml", "--store", store.uri, "--only", "pretrain")
    overrides = (*SAMPLE, *SHORT, "stages.pretrain.epochs=8")
    first = _submit(*command, overrides=overrides)
    _await_checkpoint(client, first, store)
    client.stop_job(first)
    assert _await_end(client, first) is JobStatus.STOPPED
    (record,) = _records(store)
    assert record["state"] == "interrupted", client.get_job_logs(first)[-5000:]
    assert record["stages"]["search"]["state"] == "done"

    second = _submit(*command, overrides=overrides)
    assert _await_end(client, second) is JobStatus.SUCCEEDED, client.get_job_logs(second)[-5000:]
    assert _records(store)[-1]["stages"]["search"]["state"] == "reused"
    epochs = _epochs(store)
    assert epochs[-1] == "epoch 8/8"
    assert epochs.count("epoch 1/8") == 1
    assert epochs.count("epoch 8/8") == 1
    last_line = client.get_job_logs(second).strip().splitlines()[-1]
    assert last_line.startswith("quickstart: done: 2 stages, 1 of them reused; ")
    key = _records(store)[-1]["stages"]["pretrain"]["key"]
    assert f"quickstart.pretrain-{key[:8]}" in _trainings_in_rays_api(jobs_url)


@pytest.mark.slow
def test_a_job_with_relative_paths_is_refused(jobs_url: str, s3_endpoint: str) -> None:
    client = JobSubmissionClient(jobs_url)
    name = _submit(jobs_url, s3_endpoint, "quickstart.yaml")
    assert _await_end(client, name) is JobStatus.FAILED
    assert client.get_job_info(name).driver_exit_code == 2
    logs = client.get_job_logs(name)
    assert (
        "store: must be absolute, not './artifacts': a Ray job runs in a temporary copy of" in logs
    )
    assert "stages.pretrain.data: must be absolute, not 'data/digits/imagenet'" in logs
    assert "Traceback" not in logs


def _orchestrator(*arguments: str, overrides: tuple[str, ...] = ()) -> str:
    """The output of a verb on the user's machine, which shares only the store with the cluster."""
    sets = [word for override in overrides for word in ("--set", override)]
    command = [sys.executable, "-m", "orchestrator", *arguments, *sets]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    ).stdout


@pytest.mark.slow
def test_the_papers_pipeline_runs_with_a_toy_network(
    jobs_url: str, s3_endpoint: str, bucket: str
) -> None:
    client, job = JobSubmissionClient(jobs_url), "full_pipeline_toy.yaml"
    store = ("--store", f"s3://{bucket}/toy")
    name = _submit(jobs_url, s3_endpoint, job, *store, overrides=SHORT_TOY)
    assert _await_end(client, name, timeout_s=3600) is JobStatus.SUCCEEDED, client.get_job_logs(
        name
    )[-5000:]
    last_line = client.get_job_logs(name).strip().splitlines()[-1]
    assert last_line.startswith("full_pipeline_toy: done: 12 stages, 0 of them reused; ")

    status = json.loads(_orchestrator("status", f"jobs/{job}", *store, "--json"))
    assert status["state"] == "done"
    assert {stage["state"] for stage in status["stages"]} == {"done"}
    cells = json.loads(
        _orchestrator("report", f"jobs/{job}", *store, "--json", overrides=SHORT_TOY)
    )["cells"]
    beside = {cell["stage"]: cell for cell in cells if cell["published"] is not None}
    paper = json.loads(_orchestrator("validate", "jobs/full_pipeline.yaml", "--json"))["stages"]
    assert {stage.partition("/")[0] for stage in beside} == {
        stage.partition("/")[0] for stage in paper
    } - {"search"}
    assert all(
        "other model" in cell["label"] and "other data" in cell["label"] for cell in beside.values()
    )
    markdown = _orchestrator(
        "report", f"jobs/{job}", *store, "--format", "markdown", overrides=SHORT_TOY
    )
    assert all(f"| {stage} | " in markdown for stage in beside)


def test_the_papers_job_plans_without_its_data(tmp_path: Path) -> None:
    stated = "0" * 64
    stages = ("pretrain", "pretrain_searched", "coco", "coco_ms", "ade20k", "measured")
    sets = [
        word for name in stages for word in ("--set", f"stages.{name}.data_fingerprint='{stated}'")
    ]
    plan = json.loads(
        _orchestrator("plan", "jobs/full_pipeline.yaml", "--store", str(tmp_path), "--json", *sets)
    )
    assert len(plan["stages"]) == 12
    assert {(stage["verdict"], stage["data_fingerprint"]) for stage in plan["stages"]} == {
        ("RUN", stated)
    }
