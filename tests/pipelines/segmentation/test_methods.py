"""The configs of the segmenters, compared with mmseg's own, and UperNet in training."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mmseg
import pytest
from safetensors.torch import load_file

from orchestrator.errors import JobError
from pipelines.openmmlab.library import Config
from pipelines.openmmlab.recipe import NORMALISATION
from pipelines.segmentation.evaluate import run as evaluate
from pipelines.segmentation.kind import KIND
from pipelines.segmentation.methods import WIDTHS, MethodName
from pipelines.segmentation.model import BUILDERS, check_batch, make_model
from pipelines.segmentation.params import SegmentationParams
from pipelines.segmentation.train import run
from tests.pipelines.openmmlab.harness import (
    Recorder,
    evaluation_params,
    make_context,
    save_toy_checkpoint,
    scores_of,
    write_ade20k,
)

BASELINES: dict[MethodName, str] = {"semantic_fpn": "fpn_r50.py", "upernet": "upernet_swin.py"}
WIDTHS_OF_CAT = (96, 192, 384, 768)


def _model(method: str, *, device: str = "cuda:0", **fields: object) -> dict[str, Any]:
    content = {"method": method, "backbone": "p.checkpoint", "data": "/ade20k", **fields}
    params = SegmentationParams.model_validate_json(json.dumps(content))
    return make_model(
        params, backbone={"type": "CAT"}, widths=WIDTHS_OF_CAT, num_classes=150, device=device
    )


def test_each_method_has_a_network_and_widths() -> None:
    assert BUILDERS.keys() == WIDTHS.keys() == BASELINES.keys()


@pytest.mark.parametrize("method", BASELINES)
def test_model_differs_from_mmseg_baseline_only_in_backbone(method: MethodName) -> None:
    (package,) = mmseg.__path__
    file = Path(package) / ".mim" / "configs" / "_base_" / "models" / BASELINES[method]
    baseline = Config.fromfile(file).model.to_dict()
    heads = [name for name in ("decode_head", "auxiliary_head") if name in baseline]
    for head in heads:
        baseline[head]["num_classes"] = 150
        # our config writes out this default of mmseg
        baseline[head]["loss_decode"]["avg_non_ignore"] = False
    baseline["backbone"], baseline["pretrained"] = {"type": "CAT"}, None
    if "neck" in baseline:
        baseline["neck"]["in_channels"] = list(WIDTHS_OF_CAT)
    baseline["data_preprocessor"].update(NORMALISATION, size=(512, 512))
    ours = {**copy.deepcopy(_model(method)), "pretrained": None}
    assert ours == baseline


def test_workers_on_cpus_do_not_share_batch_norm() -> None:
    model = _model("upernet", device="cpu")
    assert {model[head]["norm_cfg"]["type"] for head in ("decode_head", "auxiliary_head")} == {"BN"}


def test_upernet_trains_with_its_auxiliary_head(tmp_path: Path) -> None:
    data = write_ade20k(tmp_path / "ade20k", num_train=4, num_val=2)
    small: dict[str, Any] = {
        "img_scale": (64, 64),
        "crop_size": 64,
        "channels": 8,
        "head_channels": 8,
    }
    times: dict[str, Any] = {
        "batch_size": 4,
        "max_iters": 2,
        "warmup_iters": 0,
        "lr": 1e-3,
        "loader_workers": 0,
    }
    params = SegmentationParams(
        method="upernet", backbone="p.checkpoint", data=str(data), **small, **times
    )
    context = make_context(Recorder(tmp_path), params, save_toy_checkpoint(tmp_path / "pretrained"))
    trained = run(context)
    checkpoint = trained.outputs["checkpoint"]
    assert load_file(checkpoint / "model.safetensors")["auxiliary_head.conv_seg.weight"].shape == (
        3,
        8,
        1,
        1,
    )
    again = make_context(Recorder(tmp_path / "again"), evaluation_params(KIND, params), tmp_path)
    again.inputs["checkpoint"] = checkpoint  # type: ignore[index]  # a dict, as the harness makes it
    assert scores_of(evaluate(again)) == scores_of(trained)


def test_upernet_on_single_images_is_refused_before_training(tmp_path: Path) -> None:
    params = SegmentationParams(
        method="upernet", backbone="p.checkpoint", data="/ade20k", batch_size=2
    )
    context = replace(make_context(Recorder(tmp_path), params, tmp_path), world_size=2)
    with pytest.raises(
        JobError, match="batch_size: upernet needs at least 2 images on each worker"
    ):
        check_batch(context)
    check_batch(replace(context, device="cuda:0"))
    check_batch(replace(context, world_size=1))
