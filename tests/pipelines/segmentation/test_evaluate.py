"""Evaluations of a trained Semantic FPN reproduce the mIoU of its training and report what does not
fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from orchestrator.contract import StageContext
from orchestrator.errors import CheckpointError, DataError
from pipelines.openmmlab.library import MODELS, Config, DefaultScope, load_library
from pipelines.openmmlab.outputs import load_model
from pipelines.openmmlab.recipe import NORMALISATION
from pipelines.segmentation.evaluate import run
from pipelines.segmentation.kind import KIND
from pipelines.segmentation.params import SegmentationParams
from pipelines.segmentation.train import run as train
from tests.pipelines.openmmlab.harness import (
    Recorder,
    contents,
    evaluation_params,
    make_context,
    on_val,
    save_toy_checkpoint,
    write_ade20k,
)
from tests.pipelines.ranks import metrics_of_two_ranks

SMALL = {
    "img_scale": (64, 64),
    "crop_size": 64,
    "channels": 16,
    "head_channels": 16,
    "ratio_range": (1.0, 1.0),
}
TRAINING = {
    "max_iters": 60,
    "batch_size": 4,
    "lr": 3e-3,
    "warmup_iters": 5,
    "val_every": 60,
    "clip_grad": 1.0,
}


class Setting:
    """A segmenter after sixty iterations, with its data."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = write_ade20k(root / "ade20k")
        self.recorder = Recorder(root / "train")
        self.context = make_context(
            self.recorder, self.params(), save_toy_checkpoint(root / "pretrained")
        )
        self.trained = train(self.context)
        self.scores = tuple(metric for metric in on_val(self.trained) if metric.unit == "%")

    def params(self, **fields: Any) -> SegmentationParams:
        common = {
            "method": "semantic_fpn",
            "backbone": "p.checkpoint",
            "data": str(self.data),
            "loader_workers": 0,
        }
        return SegmentationParams(
            **{**common, **SMALL, **TRAINING, "photometric_distortion": False, **fields}
        )

    def evaluation(self, folder: Path, **fields: Any) -> StageContext:
        params = evaluation_params(KIND, self.params(), **fields)
        context = make_context(Recorder(folder / "evaluation"), params, self.root)
        return replace(context, inputs={"checkpoint": self.trained.outputs["checkpoint"]})


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("segmentation"))


def test_evaluation_repeats_the_metrics_of_training(setting: Setting, tmp_path: Path) -> None:
    assert KIND.evaluation is not None
    context = setting.evaluation(tmp_path)
    result = run(context)
    assert result.metrics == on_val(setting.trained)
    assert tuple(result.outputs) == KIND.evaluation.outputs
    assert (
        34 < result.metrics[0].value < 100
    )  # predicting one of three classes everywhere scores lower
    assert tuple(metric.name for metric in result.metrics) == KIND.evaluation.metrics(
        context.params
    )


def test_two_workers_share_val_with_equal_results(setting: Setting, tmp_path: Path) -> None:
    """Two workers see two of three images each. The image that both see is counted and written
    once."""
    alone = run(setting.evaluation(tmp_path, tta=True, predictions=True))
    together = setting.evaluation(tmp_path / "two", batch_size=3, tta=True, predictions=True)
    assert metrics_of_two_ranks(run, together, tmp_path) == [alone.metrics] * 2
    assert alone.metrics[:3] == setting.scores
    details = contents(alone.outputs["details"])
    assert contents(tmp_path / "work0/outputs/details") == details
    assert sum(name.startswith("predictions/") for name in details) == 3


def test_evaluation_needs_only_the_validation_split(setting: Setting, tmp_path: Path) -> None:
    data = Path(shutil.copytree(setting.data, tmp_path / "ade20k"))
    for part in ("images", "annotations"):
        shutil.rmtree(data / part / "training")
    context = setting.evaluation(tmp_path, data=str(data))
    assert KIND.evaluation is not None
    assert KIND.evaluation.fingerprint(context.params) == KIND.evaluation.fingerprint(
        setting.params()
    )
    assert run(context).metrics[:3] == setting.scores
    label = data / "annotations/validation/001.png"
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(label)
    assert KIND.evaluation.fingerprint(context.params) != KIND.evaluation.fingerprint(
        setting.params()
    )
    with pytest.raises(
        DataError, match=rf"1 of 3 label maps are wrong: {label} \(holds the values \[9\]"
    ):
        run(setting.evaluation(tmp_path / "again", data=str(data)))


def test_different_classes_are_named_and_counted(setting: Setting, tmp_path: Path) -> None:
    data = Path(shutil.copytree(setting.data, tmp_path / "ade20k"))
    (data / "classes.json").write_text(json.dumps(["blue", "red", "background"]))
    with pytest.raises(
        CheckpointError, match=r"its 3 classes differ from the data's 3: the same classes"
    ):
        run(setting.evaluation(tmp_path, data=str(data)))


def test_head_with_another_width_is_named(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"decode_head\.channels 16 instead of 8; correct the params"
    ):
        run(setting.evaluation(tmp_path, head_channels=8))


def test_settings_that_only_training_uses_may_differ(setting: Setting, tmp_path: Path) -> None:
    context = setting.evaluation(tmp_path, crop_size=32, drop_path_rate=0.5, max_iters=7)
    assert run(context).metrics[:3] == setting.scores


@pytest.fixture(scope="module")
def details(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The details with all predictions, including multi-scale + flip."""
    context = setting.evaluation(
        tmp_path_factory.mktemp("details"), predictions=True, tta=True, num_painted=2
    )
    return run(context).outputs["details"]


def _predictions(folder: Path) -> list[NDArray[np.uint8]]:
    return [np.asarray(Image.open(path)) for path in sorted((folder / "predictions").iterdir())]


def test_predictions_reproduce_metrics_of_mmsegs_evaluator(setting: Setting, details: Path) -> None:
    load_library("mmseg")
    from mmseg.evaluation import IoUMetric  # noqa: PLC0415  after load_library

    metric = IoUMetric()
    metric.dataset_meta = {"classes": ("red", "blue", "background")}
    for number, predicted in enumerate(_predictions(details)):
        label = np.asarray(Image.open(setting.data / f"annotations/validation/{number:03d}.png"))
        areas = metric.intersect_and_union(
            torch.tensor(predicted) - 1, torch.tensor(label) - 1, 3, 255
        )
        metric.results.append(areas)
    theirs = metric.evaluate(3)
    ours = {value.name: value.value for value in setting.scores}
    assert [round(ours[name], 2) for name in ("miou", "macc", "aacc")] == pytest.approx(
        [theirs[name] for name in ("mIoU", "mAcc", "aAcc")], abs=0.005
    )


def test_the_class_table_agrees_with_the_confusion_matrix(setting: Setting, details: Path) -> None:
    rows = json.loads((details / "per_class.json").read_text())["classes"]
    assert [row["class"] for row in rows] == ["red", "blue", "background"]
    assert np.mean([row["iou"] for row in rows]) == pytest.approx(setting.scores[0].value)
    confusion = json.loads((details / "confusion.json").read_text())
    assert confusion["counted"] == "pixels"
    assert confusion["classes"] == ["red", "blue", "background"]
    for place, row in enumerate(rows):
        counts = {
            predicted: count for true, predicted, count in confusion["counts"] if true == place
        }
        assert sum(counts.values()) == row["num_pixels"]
        assert 100 * counts.get(place, 0) / row["num_pixels"] == pytest.approx(row["accuracy"])
    lines = (details / "per_class.csv").read_text().splitlines()
    assert lines[0] == "class,iou,accuracy,num_pixels"
    assert lines[1] == f"red,{rows[0]['iou']},{rows[0]['accuracy']},{rows[0]['num_pixels']}"


def test_painted_images_show_truth_and_prediction(
    setting: Setting, details: Path, tmp_path: Path
) -> None:
    painted = sorted((details / "painted").iterdir())
    assert [path.name for path in painted] == ["000.jpg", "001.jpg"]
    with Image.open(painted[0]) as page:
        assert page.size == (2 * 800 + 8, 800 + 20)
    plain = run(setting.evaluation(tmp_path, num_painted=0)).outputs["details"]
    assert sorted(contents(plain)) == [
        "confusion.json",
        "confusion.png",
        "per_class.csv",
        "per_class.json",
    ]


def _by_hand(network: Any, bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The label map of the mean softmax over scales of 0.5 to 1.75 times 64 px, each also mirrored,
    in the data set's numbering."""
    mean, std = (np.array(NORMALISATION[name], np.float32) for name in ("mean", "std"))
    total = torch.zeros(3, 64, 64)
    for px in (32, 48, 64, 80, 96, 112):
        rgb = cv2.resize(bgr, (px, px), interpolation=cv2.INTER_LINEAR)[:, :, ::-1].astype(
            np.float32
        )
        x = torch.tensor((rgb - mean) / std).permute(2, 0, 1)[None]
        for flips in ((), (3,)):
            logits: Tensor = network.decode_head(network.extract_feat(x.flip(flips)))
            logits = interpolate(logits, size=(px, px), mode="bilinear").flip(flips)
            total += interpolate(logits, size=(64, 64), mode="bilinear")[0].softmax(0)
    label_map: NDArray[np.uint8] = (1 + total.argmax(0)).numpy().astype(np.uint8)
    return label_map


def test_multi_scale_flip_averages_the_softmax_of_twelve_views(
    setting: Setting, details: Path
) -> None:
    saved = load_model(setting.trained.outputs["checkpoint"])
    load_library("mmseg")
    with DefaultScope.overwrite_default_scope("mmseg"), torch.no_grad():
        network = MODELS.build(
            Config({**saved.model, "backbone": {**saved.model["backbone"], "checkpoint": None}})
        )
        network.load_state_dict(saved.weights)
        network.eval()
        images = sorted((setting.data / "images/validation").iterdir())
        expected = [_by_hand(network, np.asarray(Image.open(path))[:, :, ::-1]) for path in images]
    found = _predictions(details / "multi_scale_flip")
    assert all((one == other).all() for one, other in zip(found, expected, strict=True))
    assert any(
        (one != other).any() for one, other in zip(found, _predictions(details), strict=True)
    )


def test_training_and_evaluation_measure_the_same_tta(setting: Setting, tmp_path: Path) -> None:
    """An attempt that resumes after the last update only measures multi-scale + flip."""
    params = setting.params(tta=True)
    last = setting.recorder.checkpoints[-1]
    resumed = make_context(
        Recorder(tmp_path / "again"), params, setting.context.inputs["backbone"], resume_dir=last
    )
    result = train(resumed)
    metrics = on_val(result)
    assert metrics == run(setting.evaluation(tmp_path, tta=True)).metrics
    assert tuple(metric.name for metric in result.metrics) == KIND.metrics(params)
    assert metrics[3].name == "miou_ms_flip"
    assert metrics[:3] == setting.scores
