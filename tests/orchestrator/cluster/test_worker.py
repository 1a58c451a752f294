"""A worker's part of a stage, in this process: from the check of its machine to the manifest."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.hardware import Hardware
from orchestrator.cluster.stage import make_attempt
from orchestrator.cluster.worker import WorkerRank, run_pipeline
from orchestrator.errors import MachineError, StageError
from orchestrator.monitoring.tally import Amounts
from orchestrator.planning import plan_job
from orchestrator.runs.journal import open_journal
from orchestrator.runs.record import StageEvent, record_name
from orchestrator.spec import load_job
from orchestrator.store import open_store
from orchestrator.store.checkpoints import commit_checkpoint
from orchestrator.store.publish import load_manifest, training_name
from orchestrator.store.training import Training
from tests.orchestrator.counting import KINDS

JOB = {
    "name": "single",
    "store": "./store",
    "stages": {"only": {"kind": "count", "data": "data", "epochs": 3}},
}
ONE = WorkerRank(
    rank=0,
    world_size=1,
    device="cpu",
    report_metrics=lambda metrics: None,
    broadcast_from_rank_zero=lambda number: number,
    is_leaving=lambda: False,
)


class Channel:
    def __init__(self) -> None:
        self.heard: list[StageEvent] = []
        self.amounts: list[Amounts] = []
        self.noted: dict[Any, Hardware] = {}

    def is_stopping(self, stage: str) -> bool:
        return False

    def send(self, event: StageEvent) -> None:
        self.heard.append(event)

    def count(self, amounts: Amounts) -> None:
        self.amounts.append(amounts)

    def note(self, stage: str, worker: Any, hardware: Hardware) -> None:
        self.noted[worker] = hardware

    def notes(self, stage: str) -> dict[Any, Hardware]:
        return self.noted


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    """The first attempt of a stage, in a run that has begun."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    (tmp_path / "job.yaml").write_text(json.dumps(JOB))
    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)
    store = open_store(job.store)
    plan = plan_job(job, store)
    open_journal(store, plan, run_id="now")
    return make_attempt(plan, plan.stages[0], store, Training("train/key", 1), {"run_id": "now"})


def _run(attempt: Attempt) -> list[StageEvent]:
    """Run the attempt and return the events of the worker."""
    channel: Any = Channel()
    run_pipeline(attempt, ONE, channel, closes_stage=True)
    events: list[StageEvent] = channel.heard
    return events


def _worked(tmp_path: Path) -> list[str]:
    log = tmp_path / "data" / "worked.log"
    return log.read_text().splitlines() if log.exists() else []


def _commit(attempt: Attempt, folder: Path, *epochs: int) -> None:
    for epoch in epochs:
        folder.mkdir()
        (folder / "state.json").write_text(str(epoch))
        commit_checkpoint(open_store(attempt.store_uri), attempt.training, folder)
        shutil.rmtree(folder)


def test_remark_on_a_damaged_checkpoint_names_the_resumed_one(
    attempt: Attempt, tmp_path: Path
) -> None:
    store = open_store(attempt.store_uri)
    _commit(attempt, tmp_path / "state", 1, 2)
    store.write(f"{attempt.training.folder}/checkpoints/00000002/state.json", b"3")
    events = _run(attempt)
    assert _worked(tmp_path) == ["gain 1 epoch 2", "gain 1 epoch 3"]
    (remark,) = [event for event in events if event.is_remark]
    assert remark.event.text.startswith(
        f"checkpoint 2 is damaged: store {store.uri}: {attempt.training.folder}/checkpoints/"
    )
    assert "; resuming from checkpoint 1, so the training after it is repeated" in remark.event.text


def test_intact_checkpoint_is_resumed_without_a_remark(attempt: Attempt, tmp_path: Path) -> None:
    _commit(attempt, tmp_path / "state", 1, 2)
    events = _run(attempt)
    assert _worked(tmp_path) == ["gain 1 epoch 3"]
    assert not any(event.is_remark for event in events)


def test_machine_without_the_drivers_store_trains_nothing(attempt: Attempt, tmp_path: Path) -> None:
    open_store(attempt.store_uri).delete(record_name("now"))
    with pytest.raises(MachineError, match="is not the store of the driver"):
        _run(attempt)
    assert _worked(tmp_path) == []


def test_bug_of_a_pipeline_is_reported_with_its_traceback(attempt: Attempt) -> None:
    params: Any = attempt.params
    broken = replace(attempt, params=params.model_copy(update={"fails": "bug"}))
    with pytest.raises(StageError, match=r"^ZeroDivisionError: a bug\nTraceback \(most") as caught:
        _run(broken)
    assert 'counting.py", line ' in str(caught.value)


def test_publishing_works_without_hard_links(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", refuse)
    _run(attempt)
    manifest = load_manifest(open_store(attempt.store_uri), attempt.key)
    assert manifest is not None
    assert manifest.metrics[0].value == 3.0


def test_worker_counts_the_bytes_of_its_checkpoints(attempt: Attempt) -> None:
    channel: Any = Channel()
    run_pipeline(attempt, ONE, channel, closes_stage=True)
    assert sum(amounts.upload_bytes for amounts in channel.amounts) == 3  # 3 epochs of 1 byte
    assert {(amounts.stage, amounts.attempt) for amounts in channel.amounts} == {("only", 1)}


def test_worker_on_a_gpu_counts_its_memory_once(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 2**30)
    channel: Any = Channel()
    run_pipeline(attempt, replace(ONE, device="cuda:0"), channel, closes_stage=True)
    memory = [amounts.gpu_memory_bytes for amounts in channel.amounts if amounts.gpu_memory_bytes]
    assert memory == [2**30]


def _attempt_at(store_uri: str, tmp_path: Path, *forced: str) -> Attempt:
    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)
    job = replace(job, store=store_uri)
    store = open_store(store_uri)
    plan = plan_job(job, store, forced=forced)
    open_journal(store, plan, run_id="now")
    training = Training(training_name(plan.stages[0].key), 1)
    return make_attempt(plan, plan.stages[0], store, training, {"run_id": "now"})


def test_forced_stage_repairs_a_blob_with_a_flipped_byte(
    attempt: Attempt, tmp_path: Path, store_uri: str
) -> None:
    """S3 does not notice the flip, and this process knows that it has uploaded the blob."""
    store = open_store(store_uri)
    _run(_attempt_at(store_uri, tmp_path))
    (blob,) = store.names("blobs")
    flipped = bytearray(store.read(blob) or b"")
    flipped[0] ^= 1
    store.write(blob, bytes(flipped))
    forced = _attempt_at(store_uri, tmp_path, "only")
    assert forced.is_forced
    _run(forced)
    assert store.names("blobs") == [blob]
    assert hashlib.sha256(store.read(blob) or b"").hexdigest() == blob.rpartition("/")[2]
