"""Detection stages that really train: two epochs of a tiny Mask R-CNN on eight images."""

from __future__ import annotations

import json
import math
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.contract import StageContext, StageResult
from orchestrator.errors import CheckpointError, DataError, JobError, StageError, StoppedError
from pipelines.detection import train as detection_train
from pipelines.detection.annotations.coco import Annotations, read_annotations
from pipelines.detection.annotations.usage import Split
from pipelines.detection.kind import KIND
from pipelines.detection.params import DetectionParams
from pipelines.detection.scores import CocoScores
from pipelines.detection.train import percentages, run
from pipelines.detection.traits import METHODS
from pipelines.openmmlab.library import MODELS, Config, DefaultScope
from pipelines.openmmlab.params import SIZES
from pipelines.openmmlab.runner import Trained, TrainingSetup
from tests.pipelines.openmmlab.harness import (
    PX,
    Recorder,
    make_context,
    on_val,
    save_toy_checkpoint,
    write_coco,
)


def _params(root: Path, **fields: Any) -> DetectionParams:
    small = {
        "epochs": 2,
        "batch_size": 4,
        "img_scale": (PX, PX),
        "channels": 8,
        "fc_channels": 16,
        "num_rois": 8,
    }
    common = {
        "method": "mask_rcnn",
        "backbone": "p.checkpoint",
        "data": str(root),
        "loader_workers": 0,
    }
    return DetectionParams(**{**common, **small, "warmup_iters": 2, **fields})


class Setting:
    """Data and pretrained checkpoint, and a straight run of two epochs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = write_coco(root / "coco")
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
    return Setting(tmp_path_factory.mktemp("detection"))


def _weights(result: StageResult) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(result.outputs["checkpoint"] / "model.safetensors")
    return tensors


def test_each_epoch_is_reported_with_metrics_and_checkpoint(setting: Setting) -> None:
    recorder = setting.straight
    assert [metrics["epoch"] for metrics in recorder.metrics] == [1, 2]
    assert all({"loss", "box_map", "mask_map50"} <= metrics.keys() for metrics in recorder.metrics)
    assert all(math.isfinite(value) for metrics in recorder.metrics for value in metrics.values())
    assert all(recorder.checkpoints)
    assert [event.done for event in recorder.events][-1] == 2.0


def test_result_has_the_metrics_of_the_last_validation(setting: Setting) -> None:
    names = ("box_map", "box_map50", "mask_map", "mask_map50")
    measured, sizes = on_val(setting.result)[: len(names)], on_val(setting.result)[len(names) :]
    assert tuple(metric.name for metric in measured) == names
    assert {metric.num_samples for metric in measured} == {3}
    assert all(metric.value == setting.straight.metrics[-1][metric.name] for metric in measured)
    assert {metric.name for metric in sizes} == {"params_m", "flops_g"}
    assert {metric.num_samples for metric in sizes} == {None}


def test_every_reported_metric_is_declared(setting: Setting) -> None:
    declared = KIND.metrics(setting.context("declared").params)
    assert tuple(metric.name for metric in setting.result.metrics) == declared
    assert {name for metrics in setting.straight.metrics for name in metrics} <= {
        "epoch",
        *declared,
    }
    assert setting.result.metrics[-3].value == setting.straight.metrics[-1]["loss"]


def test_training_changes_the_pretrained_backbone(setting: Setting) -> None:
    pretrained, trained = (
        load_file(setting.backbone / "model.safetensors"),
        _weights(setting.result),
    )
    shared = [name for name in pretrained if f"backbone.{name}" in trained]
    assert any(not torch.equal(pretrained[name], trained[f"backbone.{name}"]) for name in shared)


def test_published_detector_loads_without_the_pretrained_one(
    setting: Setting,
) -> None:
    document = json.loads((setting.result.outputs["checkpoint"] / "config.json").read_text())
    assert document["classes"] == ["red", "blue"]
    assert str(setting.root) not in json.dumps(document)
    with DefaultScope.overwrite_default_scope("mmdet"):
        detector = MODELS.build(Config(document)["model"])
    detector.load_state_dict(_weights(setting.result), strict=True)


def test_finished_run_returns_its_result_without_training(setting: Setting) -> None:
    recorder = Recorder(setting.root / "finished")
    finished = run(
        setting.context("finished", recorder, resume_dir=setting.straight.checkpoints[1])
    )
    assert finished.metrics == setting.result.metrics
    assert recorder.metrics == []
    assert _weights(finished).keys() == _weights(setting.result).keys()


def test_validation_and_checkpoint_intervals_change_no_weight(setting: Setting) -> None:
    recorder = Recorder(setting.root / "rarely")
    rarely = run(setting.context("rarely", recorder, val_every=2, checkpoint_every=2))
    straight = _weights(setting.result)
    assert [metrics["epoch"] for metrics in recorder.metrics] == [2]
    assert all(torch.equal(tensor, straight[name]) for name, tensor in _weights(rarely).items())


def test_pretrained_weights_survive_the_runners_init(
    setting: Setting,
) -> None:
    # An update of 1e-60 is zero as a float32, so the weights stay the same.
    still = _weights(run(setting.context("still", epochs=1, lr=1e-60)))
    pretrained = load_file(setting.backbone / "model.safetensors")
    arrived = {name for name in pretrained if f"backbone.{name}" in still}
    assert pretrained.keys() - arrived == {
        "norm.weight",
        "norm.bias",
        "head.fc.weight",
        "head.fc.bias",
    }
    assert all(torch.equal(pretrained[name], still[f"backbone.{name}"]) for name in arrived)


def test_diverged_training_fails_and_names_fields_to_change(setting: Setting) -> None:
    with pytest.raises(StageError, match=r"the loss is (nan|inf) at iteration .*lower `lr`"):
        run(
            setting.context(
                "diverged", lr=1e30, epochs=4, warmup_iters=0, val_every=4, checkpoint_every=4
            )
        )


def test_state_with_code_in_it_is_refused(setting: Setting, tmp_path: Path) -> None:
    torch.save(
        {"meta": {"epoch": 1, "iter": 2, "metrics": {}, "num_samples": 1}, "state_dict": print},
        tmp_path / "state.pth",
    )
    with pytest.raises(CheckpointError, match=r"state\.pth: not a training state"):
        run(setting.context("code", resume_dir=tmp_path))


def test_broken_images_are_left_out_of_training_and_validation(
    setting: Setting, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(setting.data, tmp_path / "coco"))
    for image in ("train2017/000.png", "val2017/001.png"):
        (data / image).write_bytes(b"not an image")
    recorder = Recorder(tmp_path)
    context = make_context(recorder, _params(data, epochs=1, max_broken_images=2), setting.backbone)
    assert {metric.num_samples for metric in on_val(run(context)) if metric.name not in SIZES} == {
        2
    }
    strict = replace(context, params=_params(data, max_broken_images=1))
    with pytest.raises(
        DataError, match=r"2 of 11 images cannot be decoded, but max_broken_images is 1"
    ):
        run(strict)


def test_batch_that_workers_cannot_share_is_refused(setting: Setting) -> None:
    context = setting.context("shared", batch_size=5)
    with pytest.raises(
        JobError, match=r"batch_size: 5 images cannot be shared equally by 2 workers"
    ):
        run(replace(context, world_size=2, rank=1, inputs={"backbone": setting.backbone}))


class _Document(dict[str, Any]):
    """A dictionary that supports weak references, unlike a plain one."""


def test_annotations_are_freed_before_training(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[Any]] = []

    def noted(root: Path, split: Split) -> Annotations:
        file = read_annotations(root, split)
        file = replace(file, document=_Document(file.document))
        held.extend((weakref.ref(file), weakref.ref(file.document)))
        return file

    def trains(_: StageContext, __: TrainingSetup) -> Trained:
        assert [reference() for reference in held] == [None] * 4
        raise StoppedError

    monkeypatch.setattr(detection_train, "read_annotations", noted)
    monkeypatch.setattr(detection_train, "train", trains)
    with pytest.raises(StoppedError):
        run(setting.context("let-go"))


def test_training_and_validation_read_the_checked_copies(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(shutil.copytree(setting.data, tmp_path / "coco"))
    for path in (data / "annotations").iterdir():
        document = json.loads(path.read_text())
        path.write_text(
            json.dumps({**document, "categories": [{"id": 7, "name": 1}, {"id": 8, "name": 2}]})
        )
    configs: list[Any] = []

    def trains(_: StageContext, training: TrainingSetup) -> Trained:
        configs.append(training.config)
        raise StoppedError

    monkeypatch.setattr(detection_train, "train", trains)
    recorder = Recorder(tmp_path)
    with pytest.raises(StoppedError):
        run(make_context(recorder, _params(data), setting.backbone))
    (config,) = configs
    read = {
        split: config[loader]["dataset"]
        for split, loader in (("train", "train_dataloader"), ("val", "val_dataloader"))
    }
    read["train"] = read["train"]["dataset"]
    copies = {split: tmp_path / "work0" / f"instances_{split}.json" for split in read}
    assert {split: Path(dataset["ann_file"]) for split, dataset in read.items()} == copies
    assert Path(config["val_evaluator"]["ann_file"]) == copies["val"]
    for copy in copies.values():
        assert [one["name"] for one in json.loads(copy.read_text())["categories"]] == ["1", "2"]


def test_half_precision_on_a_cpu_is_refused(setting: Setting) -> None:
    with pytest.raises(JobError, match=r"precision: bf16 needs a GPU"):
        run(setting.context("half", precision="bf16"))


def test_ap_is_zero_without_detections_and_fails_for_crowds(
    setting: Setting, tmp_path: Path
) -> None:
    """A crowd does not count as an object to detect."""
    names = METHODS["mask_rcnn"].metrics
    path = setting.data / "annotations/instances_val2017.json"
    values = CocoScores(str(path), num_objects=6, has_masks=True).compute_metrics([])
    assert percentages(_prefixed(values), names=names) == dict.fromkeys(names, 0.0)
    document = json.loads(path.read_text())
    crowds = [{**box, "iscrowd": 1} for box in document["annotations"]]
    (tmp_path / "crowds.json").write_text(json.dumps({**document, "annotations": crowds}))
    values = CocoScores(
        str(tmp_path / "crowds.json"), num_objects=0, has_masks=True
    ).compute_metrics([])
    with pytest.raises(
        DataError, match=r"box_map cannot be measured: the val annotations have no objects"
    ):
        percentages(_prefixed(values), names=names)


def _prefixed(values: dict[str, float]) -> dict[str, float]:
    return {f"coco/{name}": value for name, value in values.items()}
