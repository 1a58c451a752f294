"""What a trial records in its log, over all its attempts."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.artifact import Metric
from orchestrator.cluster.trial_log import Logbook
from orchestrator.contract import StageResult
from orchestrator.errors import DataError, IntegrityError, StageError
from orchestrator.store import Store, open_store
from orchestrator.store.publish import fetch_artifact
from orchestrator.store.training import Training
from orchestrator.store.trial_logs import (
    TrialLog,
    load_log,
    load_logs,
    save_log,
    save_stop,
    trial_training,
)
from orchestrator.trials import TrialState

SEARCH = Training("train/key", 1)
TRAINING = trial_training(SEARCH, 1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "store"))
    save_log(store, TRAINING, TrialLog(number=1, params={"lr": 0.1}, drawn_after_s=5.0))
    return store


def _open(store: Store, *seconds: float) -> Logbook:
    clock: Callable[[], float] = iter(seconds).__next__
    return Logbook(store, TRAINING, "top1", clock=clock)


def test_log_has_each_epoch_once_over_all_attempts(store: Store) -> None:
    first = _open(store, 100.0, 110.0, 120.0)
    first.report({"epoch": 1, "top1": 10.0})
    first.report({"epoch": 2, "top1": 20.0})
    second = _open(store, 0.0, 15.0, 25.0, 30.0)  # resumed from epoch 1: epoch 2 is repeated
    second.report({"epoch": 2, "top1": 21.0})
    second.report({"epoch": 3, "top1": math.nan})
    second.report({"epoch": 4, "loss": 3.0})
    (log,) = load_logs(store, SEARCH)
    assert [(point.epoch, point.value, point.elapsed_s) for point in log.curve] == [
        (1, 10.0, 10.0),
        (2, 21.0, 35.0),
        (3, None, 45.0),
    ]
    assert log.elapsed_s == 45.0
    assert log.state is None
    assert log.epoch == 3


def test_finished_trial_publishes_its_model(store: Store, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    metrics = (Metric(name="top1", value=71.5, num_samples=30),)
    _open(store, 0.0, 9.0).finish(
        StageResult({"checkpoint": tmp_path / "model", "log": tmp_path}, metrics)
    )
    log = load_log(store, TRAINING)
    assert log.state == TrialState.FINISHED
    assert log.value == 71.5
    assert log.num_samples == 30
    assert log.elapsed_s == 9.0
    assert log.checkpoint is not None
    assert (fetch_artifact(store, log.checkpoint, tmp_path / "back") / "weights").read_text() == "w"


@pytest.mark.parametrize(
    ("error", "blames_job"), [(DataError("no data\nat all"), True), (StageError("NaN"), False)]
)
def test_failed_trial_records_its_error_on_one_line(
    store: Store, error: DataError | StageError, blames_job: bool
) -> None:
    _open(store, 0.0).fail(error, elapsed_s=90.0)
    log = load_log(store, TRAINING)
    assert log.state == TrialState.FAILED
    assert log.error == str(error).split("\n")[0]
    assert log.blames_job == blames_job
    assert log.elapsed_s == 90.0
    trial = log.trial(gpus=8, cpus=96, error="overridden")
    assert trial.state == TrialState.FAILED
    assert trial.error == log.error
    assert trial.id == "00001"


def test_error_of_a_trial_is_kept_without_its_secrets(store: Store) -> None:
    url = "https://b.example/k?X-Amz-" + "Signature=0123456789abcdef"
    _open(store, 0.0).fail(StageError(f"no answer from {url}"), elapsed_s=90.0)
    assert load_log(store, TRAINING).error == "no answer from https://b.example/k***"


def test_hours_count_all_gpus_and_cpus_of_a_trial(store: Store) -> None:
    _open(store, 0.0, 1800.0).report({"epoch": 1, "top1": 1.0})
    trial = load_log(store, TRAINING).trial(gpus=8, cpus=96, error=None)
    assert trial.state == TrialState.STOPPED
    assert trial.value == 1.0
    assert trial.duration_s == 1800.0
    assert trial.gpu_hours == 4.0
    assert trial.core_hours == 48.0
    lost = load_log(store, TRAINING).trial(gpus=0, cpus=1, error="its machine is lost")
    assert lost.state == TrialState.FAILED
    assert lost.error == "its machine is lost"


def test_trial_lost_after_its_end_is_finished(store: Store) -> None:
    _open(store, 0.0, 9.0).finish(
        StageResult({}, (Metric(name="top1", value=71.5, num_samples=30),))
    )
    trial = load_log(store, TRAINING).trial(gpus=0, cpus=1, error="its machine is lost")
    assert trial.state == TrialState.FINISHED
    assert trial.error is None
    assert trial.value == 71.5


def test_later_reports_of_workers_do_not_undo_a_stop(store: Store) -> None:
    logbook = _open(store, 0.0, 9.0, 10.0)
    save_stop(store, TRAINING)
    logbook.report({"epoch": 1, "top1": 70.0})
    assert load_log(store, TRAINING).state is TrialState.STOPPED
    logbook.finish(StageResult({}, (Metric(name="top1", value=71.5, num_samples=30),)))
    (log,) = load_logs(store, SEARCH)
    assert log.state == TrialState.STOPPED
    assert log.value is None
    assert log.last_value == 70.0


def test_pipeline_that_ends_without_the_metric_is_an_error(store: Store) -> None:
    with pytest.raises(StageError, match="without a value of top1"):
        _open(store, 0.0, 9.0).finish(
            StageResult({}, (Metric(name="loss", value=0.1, num_samples=30),))
        )


def test_damaged_or_missing_trial_log_is_an_error(store: Store) -> None:
    store.write(f"{TRAINING.folder}/checkpoints/00000001/trial.json", b"of the pipeline")
    assert len(load_logs(store, SEARCH)) == 1
    third = TrialLog(number=3, params={}, drawn_after_s=0)
    save_log(store, trial_training(SEARCH, 3), third)
    with pytest.raises(
        IntegrityError,
        match=r"trials/00002/trial\.json is missing; restore it, or .* --force STAGE",
    ):
        load_logs(store, SEARCH)
    store.write(f"{TRAINING.folder}/trial.json", b"{")
    with pytest.raises(
        IntegrityError, match=r"train/key/trials/00001/trial\.json is not the log of a trial"
    ):
        load_logs(store, SEARCH)
