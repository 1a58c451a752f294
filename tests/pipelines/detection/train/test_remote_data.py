"""A stage trains the same detector with data in S3 as with data in a folder."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from orchestrator.contract import StageResult
from pipelines.data import download, folder
from pipelines.detection.evaluate import run as evaluate
from pipelines.detection.kind import KIND
from pipelines.detection.params import DetectionParams
from pipelines.detection.train import run
from tests.pipelines.data.buckets import upload
from tests.pipelines.openmmlab.harness import (
    PX,
    Recorder,
    evaluation_params,
    make_context,
    on_val,
    save_toy_checkpoint,
    scores_of,
    write_coco,
)


def _params(place: str) -> DetectionParams:
    return DetectionParams(
        method="retinanet",
        backbone="p.checkpoint",
        data=place,
        img_scale=(PX, PX),
        channels=16,
        epochs=1,
        batch_size=2,
        warmup_iters=0,
        loader_workers=0,
        drop_path_rate=0.0,
    )


def test_training_on_s3_equals_training_on_a_folder(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(folder, "_FETCHED", {})
    monkeypatch.setattr(download, "TELL_EVERY_S", math.inf)
    root, backbone = (
        write_coco(tmp_path / "coco", num_train=4, num_val=1),
        save_toy_checkpoint(tmp_path / "pretrained"),
    )
    remote = upload(root, bucket)

    def train(name: str, place: str) -> tuple[StageResult, Recorder]:
        recorder = Recorder(tmp_path / name)
        return run(make_context(recorder, _params(place), backbone)), recorder

    there, recorder = train("there", remote)
    here, _ = train("here", str(root))
    assert on_val(there) == on_val(here)
    ours, theirs = (
        load_file(one.outputs["checkpoint"] / "model.safetensors") for one in (there, here)
    )
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert recorder.events[0].text == f"fetching {remote}: 7 of 7 objects, 0.00 GiB"
    assert (
        recorder.events[1].text == "instances_train2017.json: 4 of 4 images to train on; objects: 8"
    )

    context = make_context(
        Recorder(tmp_path / "evaluation"), evaluation_params(KIND, _params(remote)), backbone
    )
    evaluated = evaluate(replace(context, inputs={"checkpoint": there.outputs["checkpoint"]}))
    assert scores_of(evaluated).items() >= scores_of(there).items()
