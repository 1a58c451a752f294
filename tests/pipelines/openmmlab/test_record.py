"""The files that a stage writes next to its weights: parameters and FLOPs, the whole config, and
the active ops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from pipelines.openmmlab.kernels import BACKED, SOURCES
from pipelines.openmmlab.library import MMLogger
from pipelines.openmmlab.ops import active_ops
from pipelines.openmmlab.record import count_complexity
from pipelines.segmentation.complexity import COUNTER
from pipelines.segmentation.model import make_model
from pipelines.segmentation.params import SegmentationParams
from pipelines.segmentation.train import run
from tests.pipelines.openmmlab.harness import (
    Recorder,
    make_context,
    save_toy_checkpoint,
    write_ade20k,
)

FIELDS: dict[str, Any] = {
    **{
        "method": "semantic_fpn",
        "backbone": "p.checkpoint",
        "loader_workers": 0,
        "max_iters": 1,
        "warmup_iters": 0,
    },
    **{"batch_size": 4, "img_scale": (64, 64), "crop_size": 64, "channels": 8, "head_channels": 8},
}


class Setting:
    """A segmenter after one iteration."""

    def __init__(self, root: Path) -> None:
        self.root = root
        params = SegmentationParams(
            **FIELDS, data=str(write_ade20k(root / "ade20k", num_train=4, num_val=2))
        )
        self.recorder = Recorder(root)
        result = run(make_context(self.recorder, params, save_toy_checkpoint(root / "pretrained")))
        self.checkpoint = result.outputs["checkpoint"]

    def read(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.checkpoint / name).read_text())
        return content


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("record"))


def test_complexity_of_the_trained_network_is_in_the_log(setting: Setting) -> None:
    complexity, tensors = (
        setting.read("complexity.json"),
        load_file(setting.checkpoint / "model.safetensors"),
    )
    buffers = {
        name
        for name in tensors
        if name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    params = sum(tensor.numel() for name, tensor in tensors.items() if name not in buffers)
    assert complexity["params_m"] == round(params / 1e6, 2)
    assert complexity["flops_g"] > 0
    assert complexity["height"] == 1024
    assert complexity["width"] == 1024
    line = (
        f"network: {complexity['params_m']} M parameters, {complexity['flops_g']} G "
        "multiply-accumulates on 1024x1024"
    )
    assert [event.text for event in setting.recorder.events if event.text.startswith(line)] == [
        f"{line} pixels"
    ]


def test_finished_stage_leaves_no_closed_log_file_behind(setting: Setting) -> None:
    assert setting.checkpoint.exists()
    assert MMLogger.get_current_instance().handlers == []


def test_resolved_config_has_no_folder_of_this_machine(setting: Setting) -> None:
    resolved = setting.read("resolved.json")
    assert {
        "model",
        "train_dataloader",
        "optim_wrapper",
        "param_scheduler",
        "val_dataloader",
    } <= resolved.keys()
    assert resolved["model"]["backbone"]["checkpoint"] == "<backbone>"
    assert resolved["optim_wrapper"]["optimizer"]["lr"] == 1.5e-5  # 6e-5 for 16 images, here for 4
    assert resolved["val_dataloader"]["dataset"]["ann_file"] == "<work_dir>/validation.txt"
    assert (
        resolved["val_dataloader"]["dataset"]["data_prefix"]["img_path"]
        == "<data>/images/validation"
    )
    assert str(setting.root) not in json.dumps(resolved)


def test_ops_report_the_source_of_their_kernels(setting: Setting) -> None:
    assert SOURCES.keys() == BACKED.keys()
    assert setting.read("config.json")["ops"] == active_ops()
    assert active_ops()["nms"] in ("torchvision", "compiled")


def test_compiled_ops_are_reported_as_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.openmmlab.ops.EXTENSION", "json")
    assert set(active_ops().values()) == {"compiled"}


def test_auxiliary_head_counts_parameters_but_no_flops() -> None:
    params = SegmentationParams(method="upernet", backbone="p.checkpoint", data="d", channels=8)
    cat = {
        "type": "CAT",
        "config": {"embed_dim": 16, "num_heads": [1, 2, 4, 8], "depths": [1, 1, 1, 1]},
    }
    model = make_model(params, backbone=cat, widths=(16, 32, 64, 128), num_classes=3, device="cpu")
    alone = {name: part for name, part in model.items() if name != "auxiliary_head"}
    whole, without = (
        count_complexity(params, network, "mmseg", COUNTER) for network in (model, alone)
    )
    assert whole["flops_g"] == without["flops_g"]
    assert float(str(whole["params_m"])) - float(str(without["params_m"])) == pytest.approx(
        0.15, abs=0.011
    )
