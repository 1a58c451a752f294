"""A fine-tuning that stops or is killed after any update resumes to bitwise the weights of a
straight run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.contract import Entry, Event, Params, StageResult
from orchestrator.errors import StoppedError
from pipelines.detection import train as detection
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab import stopping
from pipelines.openmmlab.samplers import SamplePosition, SeededDataset
from pipelines.segmentation import train as segmentation
from pipelines.segmentation.params import SegmentationParams
from pipelines.training.intervals import CheckpointEvery, CheckpointEverySteps
from tests.pipelines.openmmlab.harness import (
    PX,
    KilledError,
    Recorder,
    make_context,
    on_val,
    save_toy_checkpoint,
    write_ade20k,
    write_coco,
)
from tests.pipelines.training.other_thread import drawing_in_another_thread

COMMON: dict[str, Any] = {
    "backbone": "p.checkpoint",
    "img_scale": (PX, PX),
    "channels": 8,
    "drop_path_rate": 0.3,
    "loader_workers": 0,
}


@dataclass
class Stage:
    """A stage that uses all kinds of random numbers, and its straight run."""

    root: Path
    run: Entry
    params: Params
    pretrained: Path
    straight: Recorder = field(init=False)
    result: StageResult = field(init=False)

    def __post_init__(self) -> None:
        self.straight = Recorder(self.root / "straight")
        self.result = self.attempt(self.straight)

    def attempt(
        self, recorder: Recorder, *, resume_dir: Path | None = None, **changes: Any
    ) -> StageResult:
        params = self.params.model_copy(update=changes)
        return self.run(make_context(recorder, params, self.pretrained, resume_dir=resume_dir))

    def interrupted(
        self, name: str, interruptions: Sequence[Mapping[str, Any]], **last: Any
    ) -> tuple[StageResult, list[Recorder]]:
        """The result of a last attempt (`last`) after attempts that end by `interruptions`."""
        recorders: list[Recorder] = []
        resume_dir: Path | None = None
        for number, changes in enumerate([*interruptions, last]):
            ends = {
                field: value
                for field, value in changes.items()
                if field in ("stops_after", "dies_after")
            }
            recorder = Recorder(self.root / f"{name}{number}", **ends)
            recorders.append(recorder)
            others = {field: value for field, value in changes.items() if field not in ends}
            if not ends:
                return self.attempt(recorder, resume_dir=resume_dir, **others), recorders
            with pytest.raises((StoppedError, KilledError)):
                self.attempt(recorder, resume_dir=resume_dir, **others)
            resume_dir = recorder.saved[-1]
        raise AssertionError

    def assert_straight(self, result: StageResult, recorders: Sequence[Recorder]) -> None:
        """Asserts that weights, results and reports are bitwise equal to the straight run."""
        weights, straight = _weights(result), _weights(self.result)
        assert [
            name for name, tensor in straight.items() if not torch.equal(tensor, weights[name])
        ] == []
        assert on_val(result) == on_val(self.result)
        assert [
            metrics for recorder in recorders for metrics in recorder.metrics
        ] == self.straight.metrics


def _weights(result: StageResult) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(result.outputs["checkpoint"] / "model.safetensors")
    return tensors


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A detector with two epochs of four iterations, at random scales and on random regions. The
    last batch of an epoch is filled up."""
    root = tmp_path_factory.mktemp("detection")
    recipe = {
        "method": "mask_rcnn",
        "epochs": 2,
        "batch_size": 2,
        "lr": 1e-3,
        "warmup_iters": 3,
        "milestones": (1,),
    }
    more = {"fc_channels": 16, "num_rois": 8, "clip_grad": 1.0, "multi_scale": True, "keep_best": 0}
    params = DetectionParams(
        **{**COMMON, **recipe, **more, "data": str(write_coco(root / "coco", num_train=7))}
    )
    return Stage(root, detection.run, params, save_toy_checkpoint(root / "pretrained"))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A segmenter with six iterations over 7 images, with validations after 3 and 6."""
    root = tmp_path_factory.mktemp("segmentation")
    recipe = {
        "method": "semantic_fpn",
        "max_iters": 6,
        "batch_size": 2,
        "lr": 1e-3,
        "warmup_iters": 2,
    }
    more = {"val_every": 3, "crop_size": PX, "head_channels": 8}
    params = SegmentationParams(
        **{**COMMON, **recipe, **more, "data": str(write_ade20k(root / "ade20k", num_train=7))}
    )
    return Stage(root, segmentation.run, params, save_toy_checkpoint(root / "pretrained"))


@pytest.fixture
def _asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a validation check at each image whether to stop."""
    monkeypatch.setattr(stopping, "ASK_EVERY", 1)


@pytest.mark.usefixtures("_asked_often")
def test_detection_resumes_within_and_between_epochs(detector: Stage) -> None:
    """The stage is killed one update after a checkpoint. Then it stops after the first epoch's last
    update, and then within its validation."""
    result, recorders = detector.interrupted(
        "stopped",
        [
            {"dies_after": 3, "checkpoint_every": CheckpointEvery(steps=2)},
            {"stops_after": 2, "loader_workers": 2},
            {"stops_after": 1},
        ],
        loader_workers=2,
    )
    saved = [path.name for recorder in recorders for path in recorder.saved]
    assert saved[:3] == ["iteration_0000002", "iteration_0000004", "iteration_0000004"]
    detector.assert_straight(result, recorders)


@pytest.mark.usefixtures("_asked_often")
def test_segmentation_resumes_between_any_two_iterations(
    segmenter: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage stops after an update, within the validation after the third update, and once more.
    It loads no image twice."""
    loaded: list[int] = []
    load = SeededDataset.__getitem__

    def load_noting(dataset: SeededDataset, draw: SamplePosition) -> Any:
        loaded.append(draw.position)
        return load(dataset, draw)

    monkeypatch.setattr(SeededDataset, "__getitem__", load_noting)
    result, recorders = segmenter.interrupted(
        "stopped", [{"stops_after": 1, "loader_workers": 2}, {"stops_after": 4}, {"stops_after": 4}]
    )
    assert [recorder.saved[0].name for recorder in recorders[:3]] == [
        "iteration_0000001",
        "iteration_0000003",
        "iteration_0000003_validated",
    ]
    segmenter.assert_straight(result, recorders)
    assert loaded == list(range(2, 12))  # loader processes loaded the first two


def test_training_without_a_compiler_runs_uncompiled(
    segmenter: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    recorder = Recorder(segmenter.root / "compiled")
    segmenter.assert_straight(segmenter.attempt(recorder, compile=True), [recorder])
    logged = [event.text for event in recorder.events if event.text.startswith("compile: ")]
    assert [text.split(";")[0] for text in logged] == [
        "compile: C++ compiler 'no-such-compiler' not found (set CXX to use another)"
    ]


@pytest.mark.usefixtures("_asked_often")
def test_stop_during_validation_does_not_wait_for_an_upload(segmenter: Stage) -> None:
    """The previous checkpoint, which has the same iteration, is still uploading."""
    recorder = Recorder(segmenter.root / "uploading", stops_after=4, is_slow=True)
    with pytest.raises(StoppedError):
        segmenter.attempt(recorder, keep_best=0, checkpoint_every=CheckpointEverySteps(steps=3))
    assert [path.name for path in recorder.saved] == ["iteration_0000003", "iteration_0000003"]


def _lines(stage: Stage) -> list[Event]:
    """The events of the training itself."""
    return [event for event in stage.straight.events if event.done is not None]


def test_log_line_has_losses_lr_speed_and_remaining_time(detector: Stage, segmenter: Stage) -> None:
    of_detector, of_segmenter = (
        [event.metrics for event in _lines(stage)] for stage in (detector, segmenter)
    )
    common = {"loss", "lr", "images_per_s", "data_wait", "eta_s"}
    assert of_detector[0].keys() >= common | {"loss_cls", "loss_mask", "loss_rpn_cls", "grad_norm"}
    assert of_segmenter[-2].keys() >= common | {"decode.loss_ce"}
    assert of_detector[-1].keys() == {
        "loss",
        "box_map",
        "box_map50",
        "mask_map",
        "mask_map50",
        "images_per_s",
        "data_wait",
    }
    assert _lines(detector)[0].text.startswith("epoch 1/2 iteration 4/8 loss ")
    assert of_segmenter[-2]["eta_s"] == 0
    assert 0 < of_segmenter[-2]["data_wait"] < 100


def test_best_and_last_checkpoints_are_kept(detector: Stage, segmenter: Stage) -> None:
    """Every report with a checkpoint has a score. Segmentation keeps the best one; the detector
    here saves each epoch."""
    for stage in (detector, segmenter):
        assert all(stage.straight.checkpoints)
        assert [path.name for path in stage.straight.saved] == [
            path.name for path in stage.straight.checkpoints if path
        ]


@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_random_draws_of_another_thread_change_no_weight(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    stage: Stage = request.getfixturevalue(kind)
    recorder = Recorder(tmp_path / "disturbed")
    with drawing_in_another_thread():
        result = stage.attempt(recorder)
    stage.assert_straight(result, [recorder])
