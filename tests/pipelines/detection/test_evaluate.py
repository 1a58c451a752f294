"""Evaluations of a trained Mask R-CNN reproduce the AP of its training and report what does not
fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import load_file, save_file

from orchestrator.artifact import Metric
from orchestrator.contract import StageContext, StageResult
from orchestrator.errors import CheckpointError, DataError
from pipelines.detection.evaluate import run
from pipelines.detection.kind import KIND
from pipelines.detection.params import DetectionParams
from pipelines.detection.scores import CocoScores
from pipelines.detection.train import run as train
from pipelines.detection.traits import METHODS
from tests.pipelines.openmmlab.harness import (
    PX,
    Recorder,
    contents,
    evaluation_params,
    make_context,
    on_val,
    save_toy_checkpoint,
    write_coco,
)
from tests.pipelines.ranks import metrics_of_two_ranks

SMALL = {
    "img_scale": (PX, PX),
    "channels": 16,
    "fc_channels": 32,
    "num_rois": 32,
    "anchor_scale": 4.0,
}
TRAINING = {
    "epochs": 8,
    "batch_size": 2,
    "lr": 3e-3,
    "warmup_iters": 5,
    "val_every": 8,
    "clip_grad": 5.0,
}


class Setting:
    """A detector after eight epochs on sixteen images, with its data."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = write_coco(root / "coco", num_train=16)
        context = make_context(
            Recorder(root / "train"), self.params(), save_toy_checkpoint(root / "pretrained")
        )
        self.trained = train(context)
        self.scores = tuple(metric for metric in on_val(self.trained) if metric.unit == "%")
        self.checkpoint = self.trained.outputs["checkpoint"]

    def params(self, **fields: Any) -> DetectionParams:
        common = {
            "method": "mask_rcnn",
            "backbone": "p.checkpoint",
            "data": str(self.data),
            "loader_workers": 0,
        }
        return DetectionParams(**{**common, **SMALL, **TRAINING, "drop_path_rate": 0.0, **fields})

    def evaluation(
        self, folder: Path, *, checkpoint: Path | None = None, **fields: Any
    ) -> StageContext:
        """The context of an evaluation with changed params, and with `checkpoint` if given."""
        params = evaluation_params(KIND, self.params(), **fields)
        context = make_context(Recorder(folder / "evaluation"), params, self.root)
        return replace(context, inputs={"checkpoint": checkpoint or self.checkpoint})


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("detection"))


def test_evaluation_repeats_training_metrics_and_adds_more(
    setting: Setting, tmp_path: Path
) -> None:
    assert KIND.evaluation is not None
    context = setting.evaluation(tmp_path)
    result = run(context)
    assert _trained(result) == setting.scores
    assert 0 < result.metrics[0].value < 100
    assert tuple(result.outputs) == KIND.evaluation.outputs
    # Parameters and multiply-accumulates.
    assert result.metrics[-2:] == on_val(setting.trained)[-2:]
    measured = {metric.name for metric in result.metrics}
    # the scenes' squares of 16 to 27 pixels are all small
    unmeasured = {f"{noun}_map_{size}" for noun in ("box", "mask") for size in ("medium", "large")}
    assert measured == set(KIND.evaluation.metrics(context.params)) - unmeasured


def _trained(result: StageResult) -> tuple[Metric, ...]:
    """The metrics that training reports too."""
    return tuple(metric for metric in result.metrics if metric.name in METHODS["mask_rcnn"].metrics)


def test_two_workers_share_val_with_equal_results(setting: Setting, tmp_path: Path) -> None:
    """Two workers see two of three images each. The image that both see is counted and written
    once."""
    alone = run(setting.evaluation(tmp_path, predictions=True))
    together = setting.evaluation(tmp_path / "two", batch_size=3, predictions=True)
    assert metrics_of_two_ranks(run, together, tmp_path) == [alone.metrics] * 2
    details = contents(alone.outputs["details"])
    assert contents(tmp_path / "work0/outputs/details") == details
    assert {
        "predictions.bbox.json",
        "predictions.segm.json",
        "confusion.png",
        "painted/000.jpg",
    } <= details.keys()


def test_evaluation_needs_only_val(setting: Setting, tmp_path: Path) -> None:
    data = Path(shutil.copytree(setting.data, tmp_path / "coco"))
    shutil.rmtree(data / "train2017")
    (data / "annotations/instances_train2017.json").unlink()
    context = setting.evaluation(tmp_path, data=str(data))
    assert KIND.evaluation is not None
    assert KIND.evaluation.fingerprint(context.params) == KIND.evaluation.fingerprint(
        setting.params()
    )
    assert _trained(run(context)) == setting.scores
    (data / "val2017/000.png").unlink()
    assert KIND.evaluation.fingerprint(context.params) != KIND.evaluation.fingerprint(
        setting.params()
    )
    with pytest.raises(DataError, match=r"1 of 3 files are missing: .*val2017/000\.png"):
        run(setting.evaluation(tmp_path / "again", data=str(data)))


def test_progress_is_reported_in_images(setting: Setting, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    run(replace(setting.evaluation(tmp_path), report=recorder.report, emit=recorder.events.append))
    assert [(event.text, event.done, event.total) for event in recorder.events] == [
        ("image 3/3", 3, 3)
    ]
    assert recorder.metrics == []


def test_different_classes_are_named_and_counted(setting: Setting, tmp_path: Path) -> None:
    data = Path(shutil.copytree(setting.data, tmp_path / "coco"))
    path = data / "annotations/instances_val2017.json"
    document = json.loads(path.read_text())
    document["categories"] = [
        {"id": 7, "name": "red"},
        {"id": 8, "name": "green"},
        {"id": 9, "name": "pink"},
    ]
    path.write_text(json.dumps(document))
    with pytest.raises(
        CheckpointError, match=r"its 2 classes differ from the data's 3: .*: blue; .*: green, pink"
    ):
        run(setting.evaluation(tmp_path, data=str(data)))


def test_settings_without_effect_on_tensors_are_compared(setting: Setting, tmp_path: Path) -> None:
    expected = (
        r"rpn_head\.anchor_generator\.scales \[4\.0\] instead of \[8\.0\]; correct the params"
    )
    with pytest.raises(CheckpointError, match=expected):
        run(setting.evaluation(tmp_path, anchor_scale=8.0))
    run(setting.evaluation(tmp_path / "training", num_rois=64, lr=1.0, drop_path_rate=0.5))


def test_tensors_that_do_not_fit_are_named(setting: Setting, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(setting.checkpoint, tmp_path / "checkpoint"))
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["rpn_head.rpn_cls.bias"]
    save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r'(?s)checkpoint: .*Missing key.*"rpn_head\.rpn_cls\.bias"'
    ):
        run(setting.evaluation(tmp_path, checkpoint=checkpoint))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{}", "KeyError 'format'"),
        ("[]", "TypeError"),
        ('{"format": 2}', "ValueError format must be 1, not 2"),
        (
            (
                '{"format": 1, "method": "fcos", "classes": [], "model": {"backbone": {"config": '
                '{"dim": 3}}}}'
            ),
            "unknown fie",
        ),
    ],
)
def test_file_that_is_not_our_model_is_refused(
    setting: Setting, tmp_path: Path, content: str, fault: str
) -> None:
    checkpoint = Path(shutil.copytree(setting.checkpoint, tmp_path / "checkpoint"))
    (checkpoint / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"cannot be read as a fine-tuned model: .*{fault}"):
        run(setting.evaluation(tmp_path, checkpoint=checkpoint))


def test_a_model_of_another_method_is_refused(setting: Setting, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(setting.checkpoint, tmp_path / "checkpoint"))
    document = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**document, "method": "semantic_fpn"}))
    with pytest.raises(
        CheckpointError, match="holds a semantic_fpn, but the job has mask_rcnn; correct `method`"
    ):
        run(setting.evaluation(tmp_path, checkpoint=checkpoint))


@pytest.fixture(scope="module")
def evaluated(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    return run(
        setting.evaluation(tmp_path_factory.mktemp("details"), predictions=True, num_painted=2)
    )


@pytest.mark.parametrize(("iou_type", "noun"), [("bbox", "box"), ("segm", "mask")])
def test_predictions_reproduce_metrics_in_cocos_own_tool(
    setting: Setting, evaluated: StageResult, iou_type: str, noun: str
) -> None:
    truth = COCO(str(setting.data / "annotations/instances_val2017.json"))
    found = truth.loadRes(str(evaluated.outputs["details"] / f"predictions.{iou_type}.json"))
    evaluation = COCOeval(truth, found, iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = {metric.name: metric.value for metric in evaluated.metrics}
    averages = ("map", "map50", "map75", "map_small")
    assert [ours[f"{noun}_{name}"] for name in averages] == pytest.approx(
        [100 * x for x in evaluation.stats[:4]]
    )


def test_class_table_averages_to_the_metrics(evaluated: StageResult) -> None:
    rows = json.loads((evaluated.outputs["details"] / "per_class.json").read_text())["classes"]
    assert [(row["class"], row["num_objects"]) for row in rows] == [("red", 3), ("blue", 3)]
    for name in ("box_map", "box_map50", "mask_map75", "mask_map_small"):
        value = next(metric.value for metric in evaluated.metrics if metric.name == name)
        assert sum(row[name.replace("map", "ap")] for row in rows) / 2 == pytest.approx(value)
    assert rows[0]["box_ap_large"] is None


def test_confusion_matrix_counts_each_object_once(evaluated: StageResult) -> None:
    confusion = json.loads((evaluated.outputs["details"] / "confusion.json").read_text())
    assert confusion["classes"] == ["red", "blue", "background"]
    assert confusion["counted"] == "objects"
    assert confusion["score_threshold"] == 0.3
    assert confusion["iou_threshold"] == 0.5
    for label in (0, 1):
        assert sum(count for true, _, count in confusion["counts"] if true == label) == 3
    found = sum(count for _, predicted, count in confusion["counts"] if predicted < 2)
    boxes = json.loads((evaluated.outputs["details"] / "predictions.bbox.json").read_text())
    assert found == sum(box["score"] >= 0.3 for box in boxes)


def test_num_painted_and_predictions_choose_the_files(
    setting: Setting, evaluated: StageResult, tmp_path: Path
) -> None:
    assert sorted(path.name for path in (evaluated.outputs["details"] / "painted").iterdir()) == [
        "000.jpg",
        "001.jpg",
    ]
    plain = run(setting.evaluation(tmp_path, num_painted=0)).outputs["details"]
    assert sorted(contents(plain)) == [
        "confusion.json",
        "confusion.png",
        "per_class.csv",
        "per_class.json",
    ]


def test_class_ap_does_not_depend_on_the_order_of_ids(tmp_path: Path) -> None:
    """The evaluation sorts classes by id, but the file does not. One of two classes is found."""
    box = {"id": 1, "image_id": 1, "bbox": [0.0, 0.0, 10.0, 10.0], "area": 100.0, "iscrowd": 0}
    truth = {
        "images": [{"id": 1, "width": 64, "height": 64, "file_name": "1.jpg"}],
        "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}],
        "annotations": [{**box, "category_id": 7}, {**box, "id": 2, "category_id": 3}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    details = tmp_path / "details"
    scores = CocoScores(
        str(tmp_path / "truth.json"), num_objects=2, has_masks=False, details_dir=str(details)
    )
    scores.dataset_meta = {"classes": ("seven", "three")}
    found = {
        "bboxes": torch.tensor([[0.0, 0.0, 10.0, 10.0]]),
        "labels": torch.tensor([0]),
        "scores": torch.ones(1),
    }
    scores.process(None, [{"img_id": 1, "pred_instances": found}])
    assert scores.compute_metrics(scores.results)["box_map"] == pytest.approx(50)
    rows = json.loads((tmp_path / "details" / "per_class.json").read_text())["classes"]
    assert [(row["class"], row["box_ap"]) for row in rows] == [("seven", 100.0), ("three", 0.0)]
