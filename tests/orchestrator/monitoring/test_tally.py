"""Values of the live metrics, from records, events and amounts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from orchestrator.contract import Event
from orchestrator.monitoring.metrics import METRICS
from orchestrator.monitoring.tally import MAX_TRIALS, Amounts, Tally
from orchestrator.runs.record import ProgressMark, RunRecord, StageEvent, StageRecord
from orchestrator.schedule import State

NOW_S = 1000.0
TRAINING = {"loss": 0.5, "lr": 0.1, "images_per_s": 80.0, "data_wait": 3.0, "top1": 60.0}
RUNNING = StageRecord(
    kind="pretrain",
    key="k",
    state=State.RUNNING,
    attempt=1,
    first=ProgressMark(done=0, time_s=900),
    newest=ProgressMark(done=5, time_s=950),
    total=20,
    metrics=TRAINING,
    heard_at_s=990,
)


@pytest.fixture
def tally() -> Tally:
    return Tally({"train": "top1", "search": "top1"})


def _values(tally: Tally, *, has_ended: bool = False, **stages: StageRecord) -> Mapping[str, float]:
    """The values by name, or by name and own tags if there are some."""
    record = RunRecord(run_id="r", job="cat", began_at_s=0, heard_at_s=0, stages=stages)
    found = {}
    for reading in tally.readings(record, now_s=NOW_S, has_ended=has_ended):
        own = [value for tag, value in reading.tags.items() if tag not in ("orchestrator_job",)]
        found[" ".join([reading.name, *own])] = reading.value
    return found


def test_running_stage_has_progress_and_metrics(tally: Tally) -> None:
    values = _values(tally, train=RUNNING)
    assert values["stage_progress_ratio train"] == 0.25
    assert values["stage_eta_seconds train"] == 100
    assert values["stage_progress_age_seconds train"] == 50
    assert values["loss train"] == 0.5
    assert values["main_metric train top1"] == 60
    assert values["stage_state train running"] == 1
    assert values["stage_state train done"] == 0


def test_ended_stage_keeps_metrics_that_its_manifest_lacks(tally: Tally) -> None:
    _values(tally, train=RUNNING)
    done = RUNNING.model_copy(update={"state": State.DONE, "metrics": {"top1": 70.0}})
    values = _values(tally, train=done)
    assert (values["lr train"], values["main_metric train top1"]) == (0.1, 70)
    assert (values["stage_progress_ratio train"], values["stage_eta_seconds train"]) == (1, 0)
    assert "stage_progress_age_seconds train" not in values


def test_counters_of_a_stage_start_at_zero_and_add_up(tally: Tally) -> None:
    waiting = StageRecord(kind="pretrain", key="k")
    assert _values(tally, train=waiting)["retries train"] == 0
    for _ in range(2):
        tally.add(Amounts("train", 1, upload_s=2, upload_bytes=10, retries=1, lost_attempts=1))
    values = _values(tally, train=waiting)
    assert (values["upload_seconds train"], values["upload_bytes train"]) == (4, 20)
    assert (values["retries train"], values["lost_attempts train"]) == (2, 2)


def test_memory_of_a_gpu_is_the_most_of_the_newest_attempt(tally: Tally) -> None:
    for attempt, num_bytes in ((1, 50), (2, 10), (2, 30), (2, 20)):
        tally.add(Amounts("train", attempt, gpu_memory_bytes=num_bytes))
    assert _values(tally, train=RUNNING)["gpu_memory_bytes train"] == 30


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_loss_that_is_not_finite_is_counted_but_not_of_a_trial(tally: Tally, loss: float) -> None:
    event = Event("epoch", done=1, total=2, metrics={"loss": loss})
    tally.hear(StageEvent("train", 1, NOW_S, event))
    tally.hear(StageEvent("search", 1, NOW_S, event, trial="0001"))
    values = _values(tally, train=RUNNING, search=RUNNING)
    assert values["nonfinite_losses train"] == 1
    assert values["nonfinite_losses search"] == 0


def test_only_the_newest_trials_have_live_metrics(tally: Tally) -> None:
    for number in range(MAX_TRIALS + 1):
        event = Event("epoch", done=1, total=4, metrics={"top1": number})
        tally.hear(StageEvent("search", 1, NOW_S, event, trial=f"{number:04d}"))
    values = _values(tally, search=RUNNING)
    assert "trial_progress_ratio search 0000" not in values
    assert values[f"trial_main_metric search {MAX_TRIALS:04d} top1"] == MAX_TRIALS
    assert sum(name.startswith("trial_progress_ratio") for name in values) == MAX_TRIALS


def test_end_of_the_run_is_the_time_of_its_last_heartbeat(tally: Tally) -> None:
    assert _values(tally)["run_end_timestamp_seconds"] == 0
    values = _values(tally, has_ended=True)
    assert values["run_end_timestamp_seconds"] == values["driver_heartbeat_timestamp_seconds"]


def test_every_reading_has_the_tags_of_its_metric(tally: Tally) -> None:
    tally.add(Amounts("train", 1, gpu_memory_bytes=1))
    event = Event("epoch", done=1, total=2, metrics={"top1": 1})
    tally.hear(StageEvent("train", 1, NOW_S, event, trial="0001"))
    record = RunRecord(run_id="r", job="cat", began_at_s=0, heard_at_s=0, stages={"train": RUNNING})
    found = {
        (reading.name, tuple(reading.tags))
        for reading in tally.readings(record, now_s=NOW_S, has_ended=False)
    }
    assert found == {(metric.name, metric.tags) for metric in METRICS}
