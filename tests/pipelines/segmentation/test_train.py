"""Segmentation stages that really train: four iterations of a tiny Semantic FPN, after mmdet in the
same process."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from orchestrator.contract import StageContext, StageResult
from orchestrator.errors import CheckpointError, DataError, StageError
from pipelines.openmmlab.library import load_library
from pipelines.segmentation.kind import KIND
from pipelines.segmentation.params import SegmentationParams
from pipelines.segmentation.train import run
from tests.pipelines.openmmlab.harness import (
    Recorder,
    make_context,
    on_val,
    save_toy_checkpoint,
    scores_of,
    write_ade20k,
)


def _params(root: Path, **fields: Any) -> SegmentationParams:
    small = {
        "batch_size": 4,
        "img_scale": (64, 64),
        "crop_size": 64,
        "channels": 8,
        "head_channels": 8,
    }
    common = {
        "method": "semantic_fpn",
        "backbone": "p.checkpoint",
        "data": str(root),
        "loader_workers": 0,
    }
    times = {"max_iters": 4, "warmup_iters": 1, "val_every": 2, "checkpoint_every": 2}
    return SegmentationParams(**{**common, **small, **times, "lr": 1e-3, **fields})


class Setting:
    """Data and pretrained checkpoint, and a straight run of four iterations."""

    def __init__(self, root: Path) -> None:
        load_library("mmdet")
        self.root = root
        self.data = write_ade20k(root / "ade20k")
        self.backbone = save_toy_checkpoint(root / "pretrained")
        self.straight = Recorder(root / "straight")
        self.result = run(self.context("straight", self.straight))

    def context(
        self,
        name: str,
        recorder: Recorder | None = None,
        *,
        resume_dir: Path | None = None,
        **fields: Any,
    ) -> StageContext:
        recorder = recorder or Recorder(self.root / name)
        return make_context(
            recorder, _params(self.data, **fields), self.backbone, resume_dir=resume_dir
        )


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("segmentation"))


def _weights(result: StageResult) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(result.outputs["checkpoint"] / "model.safetensors")
    return tensors


def test_each_validation_interval_is_reported(setting: Setting) -> None:
    recorder = setting.straight
    assert [metrics["epoch"] for metrics in recorder.metrics] == [1, 2]
    assert all(recorder.checkpoints)
    assert [metric.name for metric in on_val(setting.result)] == [
        "miou",
        "macc",
        "aacc",
        "params_m",
        "flops_g",
    ]
    assert scores_of(setting.result).items() <= recorder.metrics[-1].items()
    assert [metric.num_samples for metric in on_val(setting.result)] == [3, 3, 3, None, None]
    assert recorder.events[-1].done == 4
    assert recorder.events[-1].total == 4


def test_every_reported_metric_is_declared(setting: Setting) -> None:
    declared = KIND.metrics(setting.context("declared").params)
    assert tuple(metric.name for metric in setting.result.metrics) == declared
    assert {name for metrics in setting.straight.metrics for name in metrics} <= {
        "epoch",
        *declared,
    }
    loss, images_per_s, data_wait = setting.result.metrics[-3:]
    assert loss.value == setting.straight.metrics[-1]["loss"]
    assert images_per_s.value > 0
    assert 0 <= data_wait.value <= 100
    assert [(metric.unit, metric.split) for metric in (loss, images_per_s, data_wait)] == [
        ("", "train"),
        ("images/s", "train"),
        ("%", "train"),
    ]


def test_checkpoint_between_validations_resumes_bitwise(
    setting: Setting,
) -> None:
    recorder = Recorder(setting.root / "between")
    run(setting.context("between", recorder, val_every=4, checkpoint_every=3))
    assert [metrics["epoch"] for metrics in recorder.metrics] == [1]
    assert [path.name for path in recorder.saved] == [
        "iteration_0000003",
        "iteration_0000004_validated",
    ]
    resumed = run(setting.context("from_between", resume_dir=recorder.saved[0], val_every=4))
    straight = _weights(setting.result)
    assert all(torch.equal(tensor, straight[name]) for name, tensor in _weights(resumed).items())


def test_finished_run_returns_its_result_without_training(setting: Setting) -> None:
    recorder = Recorder(setting.root / "finished")
    finished = run(
        setting.context("finished", recorder, resume_dir=setting.straight.checkpoints[1])
    )
    assert finished.metrics == setting.result.metrics
    assert recorder.metrics == []


def test_state_of_another_optimizer_is_refused(setting: Setting) -> None:
    checkpoint = setting.straight.saved[0]
    with pytest.raises(
        CheckpointError,
        match=r"the optimizer's state does not fit this stage: .* parameter groups; run again with "
        "--force STAGE to train from the start$",
    ):
        run(setting.context("other_groups", resume_dir=checkpoint, layer_decay=0.7))


def test_update_that_breaks_the_weights_writes_no_checkpoint(setting: Setting) -> None:
    """The loss of the first iteration, before the update, is finite."""
    recorder = Recorder(setting.root / "diverged")
    with pytest.raises(
        StageError,
        match=r"^the gradient and the weights are NaN or infinite at iteration 1: training "
        r"diverged; lower `lr`, set `clip_grad`, or use `precision: fp32`$",
    ):
        run(setting.context("diverged", recorder, lr=1e38, warmup_iters=0, checkpoint_every=1))
    assert recorder.saved == []


def test_cosine_with_clipped_gradients_trains(setting: Setting) -> None:
    other = run(
        setting.context("cosine", schedule="cosine", photometric_distortion=False, clip_grad=0.1)
    )
    straight = _weights(setting.result)
    assert any(not torch.equal(tensor, straight[name]) for name, tensor in _weights(other).items())


def test_wrong_label_map_is_named(setting: Setting, tmp_path: Path) -> None:
    data = Path(shutil.copytree(setting.data, tmp_path / "ade20k"))
    label = data / "annotations" / "training" / "002.png"
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(label)
    context = make_context(Recorder(tmp_path), _params(data), setting.backbone)
    with pytest.raises(
        DataError, match=rf"1 of 11 label maps are wrong: {label} \(holds the values \[9\]"
    ):
        run(context)


def test_image_without_label_map_is_named(setting: Setting, tmp_path: Path) -> None:
    data = Path(shutil.copytree(setting.data, tmp_path / "ade20k"))
    (data / "annotations" / "validation" / "001.png").unlink()
    context = make_context(Recorder(tmp_path), _params(data), setting.backbone)
    with pytest.raises(
        DataError, match=r"1 of 11 files are missing: .*annotations/validation/001\.png"
    ):
        run(context)


@pytest.mark.parametrize(
    ("part", "fault"),
    [("images", "cannot be decoded: not an image"), ("annotations", "not an image")],
)
def test_file_that_breaks_during_training_is_named(
    setting: Setting, tmp_path: Path, part: str, fault: str
) -> None:
    data = Path(shutil.copytree(setting.data, tmp_path / "ade20k"))
    context = make_context(Recorder(tmp_path), _params(data), setting.backbone)

    def break_files(metrics: Mapping[str, float], checkpoint_dir: Path | None) -> None:
        context.report(metrics, checkpoint_dir)
        for path in (data / part / "training").iterdir():
            path.write_bytes(b"")

    file = rf"{data}/{part}/training/\d+\.png"
    with pytest.raises(
        DataError, match=rf"^{file}: {fault}.*; the file changed during the stage; restore it$"
    ):
        run(replace(context, report=break_files))
