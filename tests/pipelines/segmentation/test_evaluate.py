"""Evaluations of a Semantic FPN that has learned something: the mIoU that its training published; misfits are told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.contract import StageContext
from orchestrator.errors import CheckpointError, DataError
from pipelines.segmentation.evaluate import run
from pipelines.segmentation.kind import KIND
from pipelines.segmentation.params import SegmentationParams
from pipelines.segmentation.train import run as train
from tests.pipelines.openmmlab.harness import Recorder, make_context, save_toy_checkpoint, write_ade20k
from tests.pipelines.openmmlab.ranks import metrics_of_two_ranks

# mmseg's advice; averaging over ignored pixels too is what the published recipe does.
pytestmark = pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False")
SMALL = {"img_scale": (64, 64), "crop_size": 64, "channels": 16, "head_channels": 16, "ratio_range": (1.0, 1.0)}
TRAINING = {"max_iters": 60, "batch_size": 4, "lr": 3e-3, "warmup_iters": 5, "val_every": 60, "clip_grad": 1.0}


class Setting:
    """A segmenter after sixty iterations, with its data."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = write_ade20k(root / "ade20k")
        context = make_context(Recorder(root / "train"), self.params(), save_toy_checkpoint(root / "pretrained"))
        self.trained = train(context)

    def params(self, **fields: Any) -> SegmentationParams:
        common = {"method": "semantic_fpn", "backbone": "p.checkpoint", "data": str(self.data), "loader_workers": 0}
        return SegmentationParams(**{**common, **SMALL, **TRAINING, "photometric_distortion": False, **fields})

    def evaluation(self, folder: Path, **fields: Any) -> StageContext:
        context = make_context(Recorder(folder / "evaluation"), self.params(**fields), self.root)
        return replace(context, inputs={"checkpoint": self.trained.outputs["checkpoint"]})


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("segmentation"))


def test_the_metrics_are_those_that_training_published(setting: Setting, tmp_path: Path) -> None:
    context = setting.evaluation(tmp_path)
    result = run(context)
    assert result.metrics == setting.trained.metrics
    assert 34 < result.metrics[0].value < 100  # one class of three everywhere is below
    assert KIND.evaluation is not None
    assert tuple(metric.name for metric in result.metrics) == KIND.evaluation.metrics(context.params)


def test_two_workers_share_val_and_come_to_the_same_metrics(setting: Setting, tmp_path: Path) -> None:
    metrics = metrics_of_two_ranks(run, setting.evaluation(tmp_path, batch_size=3), tmp_path)
    assert metrics == [setting.trained.metrics] * 2


def test_validation_alone_is_enough(setting: Setting, tmp_path: Path) -> None:
    data = Path(shutil.copytree(setting.data, tmp_path / "ade20k"))
    for part in ("images", "annotations"):
        shutil.rmtree(data / part / "training")
    context = setting.evaluation(tmp_path, data=str(data))
    assert KIND.evaluation is not None
    assert KIND.evaluation.fingerprint(context.params) == KIND.evaluation.fingerprint(setting.params())
    assert run(context).metrics == setting.trained.metrics
    label = data / "annotations/validation/001.png"
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(label)
    assert KIND.evaluation.fingerprint(context.params) != KIND.evaluation.fingerprint(setting.params())
    with pytest.raises(DataError, match=rf"1 of 3 label maps are wrong: {label} \(holds the values \[9\]"):
        run(setting.evaluation(tmp_path / "again", data=str(data)))


def test_other_classes_are_named_and_counted(setting: Setting, tmp_path: Path) -> None:
    data = Path(shutil.copytree(setting.data, tmp_path / "ade20k"))
    (data / "classes.json").write_text(json.dumps(["blue", "red", "background"]))
    with pytest.raises(CheckpointError, match=r"its 3 classes are not the data's 3: they stand in another order"):
        run(setting.evaluation(tmp_path, data=str(data)))


def test_a_head_of_another_width_is_named(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"decode_head\.channels 16 instead of 8; correct the params"):
        run(setting.evaluation(tmp_path, head_channels=8))


def test_what_only_training_uses_may_differ(setting: Setting, tmp_path: Path) -> None:
    context = setting.evaluation(tmp_path, crop_size=32, drop_path_rate=0.5, max_iters=7)
    assert run(context).metrics == setting.trained.metrics
