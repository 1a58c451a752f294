"""The times at which a fine-tuning validates and saves, and its reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from orchestrator.errors import StageError
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.progress import EventWriter, RunningMetrics, TrainingSchedule
from pipelines.openmmlab.state import Position
from pipelines.segmentation.params import SegmentationParams
from pipelines.training.intervals import CheckpointEvery, CheckpointEverySteps
from pipelines.training.speed import SpeedMeter
from tests.pipelines.openmmlab.harness import Recorder, make_context

DETECTION: Any = {"method": "fcos", "backbone": "p.checkpoint", "data": "/d"}
SEGMENTATION: Any = {"method": "semantic_fpn", "backbone": "p.checkpoint", "data": "/d"}


def epochs(every: CheckpointEvery, *, keep_best: int) -> list[int]:
    """The epochs, of six, after which a checkpoint is due. Every second epoch has a validation."""
    schedule = TrainingSchedule("epoch", 6, 2, every, keep_best)
    return [
        done
        for done in range(1, 7)
        if schedule.is_checkpoint_due(done, is_validated=schedule.is_val_due(done))
    ]


def test_keep_best_writes_a_checkpoint_after_validations() -> None:
    assert epochs(CheckpointEvery(minutes=10), keep_best=1) == [2, 4, 6]
    assert epochs(CheckpointEvery(minutes=10), keep_best=0) == [6]
    assert epochs(CheckpointEvery(epochs=3), keep_best=1) == [2, 3, 4, 6]
    assert epochs(CheckpointEvery(epochs=3), keep_best=0) == [3, 6]


@pytest.mark.parametrize("content", ['{"steps": 50}', '{"minutes": 2.5}', '{"epochs": 2}', "2"])
def test_detection_saves_by_epochs_steps_or_minutes(content: str) -> None:
    every = CheckpointEvery.model_validate_json(content)
    params = DetectionParams(**DETECTION, checkpoint_every=every)
    assert params.in_key() == DetectionParams(**DETECTION).in_key()
    assert (every.epochs == 2) == ("2" in content and "2.5" not in content)


def test_segmentation_does_not_accept_epochs() -> None:
    assert CheckpointEverySteps.model_validate_json("200").steps == 200
    assert SegmentationParams(**SEGMENTATION).checkpoint_every.steps == 8000
    with pytest.raises(ValidationError, match="epochs"):
        CheckpointEverySteps.model_validate_json('{"epochs": 2}')


def test_number_of_workers_must_divide_the_batch() -> None:
    params = DetectionParams(**DETECTION, batch_size=6)
    assert [count for count in range(1, 7) if params.fits_workers(count)] == [1, 2, 3, 6]


def losses(*values: float) -> RunningMetrics:
    figures = RunningMetrics.at(Position(), rank=0, world_size=1)
    for iteration, value in enumerate(values, 1):
        figures.add(iteration, {"loss": torch.tensor(value), "loss_cls": torch.tensor(value / 2)})
    return figures


def test_lines_and_reports_have_means_since_the_previous_one() -> None:
    figures = losses(1.0, 3.0)
    assert figures.read() == {"loss": 2.0, "loss_cls": 1.0}
    figures.add(3, {"loss": torch.tensor(5.0)})
    assert figures.read() == {"loss": 5.0}
    assert figures.mean_loss == 3.0
    figures.begin_anew()
    assert figures.mean_loss == 0.0


def test_nan_loss_is_reported_with_its_iteration() -> None:
    with pytest.raises(StageError, match=r"the loss is nan at iteration 2: .*lower `lr`"):
        losses(1.0, float("nan"), 2.0).read()


@pytest.mark.parametrize(
    ("world_size", "loss_sums"), [(2, [1.0, 5.0]), (3, [3.0, 3.0, 3.0]), (1, [3.0])]
)
def test_loss_sums_resume_with_any_number_of_workers(
    world_size: int, loss_sums: list[float]
) -> None:
    position = Position(iteration=4, loss_sums=(1.0, 5.0), num_losses=2)
    figures = [
        RunningMetrics.at(position, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    assert [figure.losses.sum for figure in figures] == loss_sums
    assert sum(figure.mean_loss for figure in figures) / world_size == 1.5


def test_line_estimates_remaining_time_from_this_attempt(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    context = make_context(recorder, DetectionParams(**DETECTION), tmp_path)
    speed = SpeedMeter(trained_s=1000.0, waited_s=100.0)
    speed.add(trained_s=2.0, waited_s=0.5)
    telling = EventWriter(
        context,
        TrainingSchedule("epoch", 2, 1, CheckpointEvery(epochs=1), 1),
        max_iters=100,
        batch_size=16,
    )
    telling.report_iteration(60, {"loss": 1.25, "loss_cls": 0.5}, lr=1e-4, speed=speed)
    (event,) = recorder.events
    assert event.text == "epoch 2/2 iteration 60/100 loss 1.25 lr 0.0001 eta 0:01:20"
    assert event.done == 1.2
    assert event.total == 2
    assert event.metrics["images_per_s"] == 8
    assert event.metrics["data_wait"] == pytest.approx(100 * 100.5 / 1002)
    assert event.metrics["eta_s"] == 80
