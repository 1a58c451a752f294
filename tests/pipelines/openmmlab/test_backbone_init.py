"""The start of a training: random weights, or weights from our, official or timm's checkpoints, and
frozen stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cat_model import CatBackbone, CatConfig
from orchestrator.contract import StageResult
from orchestrator.errors import CheckpointError, JobError, SpecError
from orchestrator.spec import load_job
from pipelines import KINDS
from pipelines.cat.params import ModelParams
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.backbone import read_pretrained
from pipelines.openmmlab.backbone_init import lr_line, make_backbone_init
from pipelines.segmentation.params import SegmentationParams
from pipelines.segmentation.train import run
from tests.pipelines.openmmlab.harness import (
    Recorder,
    make_context,
    save_toy_checkpoint,
    write_ade20k,
)
from tests.pipelines.ranks import metrics_of_two_ranks

TOY = {"img_size": 56, "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
SCRATCH = {"init": "scratch", "model": TOY, "backbone": None}
STILL = {"max_iters": 1, "warmup_iters": 0, "lr": 1e-60}
"""One update that is zero as a float32, so the weights stay the same."""


def _params(data: Path, **fields: Any) -> SegmentationParams:
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
        "data": str(data),
        "loader_workers": 0,
    }
    return SegmentationParams(
        **{**common, **small, "max_iters": 2, "warmup_iters": 0, "lr": 1e-3, **fields}
    )


class Setting:
    """Data and a pretrained checkpoint, with the stages that use them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = write_ade20k(root / "ade20k", num_train=4, num_val=2)
        self.backbone = save_toy_checkpoint(root / "pretrained")
        self.pretrained: dict[str, Tensor] = load_file(self.backbone / "model.safetensors")

    def train(self, name: str, **fields: Any) -> tuple[dict[str, Tensor], Recorder]:
        recorder = Recorder(self.root / name)
        result = run(make_context(recorder, _params(self.data, **fields), self.backbone))
        return _backbone_of(result), recorder


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("start"))


def _backbone_of(result: StageResult) -> dict[str, Tensor]:
    tensors = load_file(result.outputs["checkpoint"] / "model.safetensors")
    return {
        name.removeprefix("backbone."): tensor
        for name, tensor in tensors.items()
        if name.startswith("backbone.")
    }


def _changed(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> set[str]:
    return {name for name in one.keys() & other.keys() if not torch.equal(one[name], other[name])}


def test_backbone_from_scratch_is_random_by_seed(
    setting: Setting,
) -> None:
    first, recorder = setting.train("scratch", **STILL, **SCRATCH)
    again, _ = setting.train("scratch_again", **STILL, **SCRATCH)
    weight = first["stages.2.blocks.0.cpsa.mlp.fc1.weight"]
    assert not _changed(first, again)
    assert weight.std() == pytest.approx(0.02, rel=0.05)
    assert "stages.2.blocks.0.cpsa.mlp.fc1.weight" in _changed(first, setting.pretrained)
    assert recorder.events[0].text == "backbone: random weights"


def test_log_lists_loaded_and_left_out_tensors(setting: Setting) -> None:
    start, recorder = setting.train("loaded", **STILL, drop_path_rate=None, model=TOY)
    assert not _changed(start, setting.pretrained)
    summary = recorder.events[0].text
    norms = ", ".join(f"norm{stage}.{part}" for stage in range(4) for part in ("weight", "bias"))
    assert summary.startswith(
        f"backbone: a CAT of a custom size; mapped: {len(start) - 8} tensors; new: {norms};"
    )
    assert summary.endswith("left out: head.fc.bias, head.fc.weight, norm.bias, norm.weight")


def test_frozen_stages_stay_bitwise_equal_and_the_rest_learns(setting: Setting) -> None:
    trained, recorder = setting.train("frozen", frozen_stages=2, layer_decay=0.7)
    changed = _changed(trained, setting.pretrained)
    frozen = {
        name
        for name in setting.pretrained
        if name.startswith(("ape", "patch_embed", "stages.0", "stages.1"))
    }
    assert frozen
    assert not changed & frozen
    assert {
        "stages.2.downsample.reduction.weight",
        "stages.3.blocks.0.cpsa.mlp.fc1.weight",
    } <= changed
    assert not torch.equal(trained["norm0.weight"], torch.ones(16))
    assert recorder.events[0].text.endswith("; frozen: embeddings and the first 2 stages")


def test_frozen_stages_use_no_dropout_in_training() -> None:
    torch.manual_seed(0)
    backbone = CatBackbone(CatConfig(**TOY, drop_path_rate=0.5, drop_rate=0.5))  # type: ignore[arg-type]
    backbone.freeze(3)
    backbone.train()
    image = torch.randn(2, 3, 64, 64)
    one, other = backbone(image), backbone(image)
    assert [torch.equal(a, b) for a, b in zip(one, other, strict=True)] == [True, True, True, False]
    assert {name for name, tensor in backbone.named_parameters() if tensor.requires_grad} == {
        *(name for name, _ in backbone.named_parameters() if name.startswith(("stages.3", "norm")))
    }
    with pytest.raises(ValueError, match=r"within 0\.\.4, got 5"):
        backbone.freeze(5)


@pytest.mark.slow
def test_two_workers_train_one_random_and_partly_frozen_network(
    setting: Setting, tmp_path: Path
) -> None:
    params = _params(setting.data, **SCRATCH, frozen_stages=1, layer_decay=0.5)
    context = make_context(Recorder(tmp_path / "r"), params, setting.backbone)
    # Only rank 0 counts the network, and each rank has its own clock. The weights are compared
    # after training.
    first, second = (
        [metric for metric in metrics if metric.num_samples is not None]
        for metrics in metrics_of_two_ranks(run, context, tmp_path)
    )
    assert first == second
    assert first


@pytest.mark.parametrize("name", ["cat.pth", "cat.safetensors"])
def test_timm_checkpoint_loads_as_backbone(tmp_path: Path, name: str) -> None:
    tensors = timm.create_model("cat_tiny", num_classes=7).state_dict()
    if name.endswith("pth"):
        torch.save({"epoch": 3, "arch": "cat_tiny", "state_dict": tensors}, tmp_path / name)
    else:
        save_file(tensors, tmp_path / name)
    found = read_pretrained(tmp_path, drop_path_rate=0.2)
    assert found.name == "cat_tiny"
    assert found.config.drop_path_rate == 0.2
    assert set(found.fitted.report.unexpected) == {
        "norm.weight",
        "norm.bias",
        "head.fc.weight",
        "head.fc.bias",
    }
    assert torch.equal(found.fitted.tensors["ape"], tensors["ape"])


def test_unknown_tensor_is_an_error(setting: Setting, tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {**setting.pretrained, "neck.weight": torch.zeros(2)}}, tmp_path / "cat.pth"
    )
    with pytest.raises(CheckpointError, match=r"(?s)cat\.pth .*neck\.weight"):
        read_pretrained(tmp_path, drop_path_rate=None)


def test_a_checkpoint_of_another_size_names_the_fields(setting: Setting, tmp_path: Path) -> None:
    context = make_context(
        Recorder(tmp_path), _params(setting.data, model="cat_small"), setting.backbone
    )
    expected = (
        r"a different network than `model`: embed_dim 16 instead of 96, depths \[1, 1, 1, 1\] "
        r"instead of \[1, 1, 3"
    )
    with pytest.raises(CheckpointError, match=expected):
        make_backbone_init(context)


def test_network_of_three_stages_is_refused(setting: Setting, tmp_path: Path) -> None:
    model = {**TOY, "depths": (1, 1, 1), "num_heads": (1, 2, 4)}
    context = make_context(
        Recorder(tmp_path), _params(setting.data, **{**SCRATCH, "model": model}), setting.backbone
    )
    with pytest.raises(JobError, match="has 3 stages, but detectors and segmenters need 4"):
        make_backbone_init(context)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (
            "",
            (
                r"job\.yaml:5:3: stages\.coco\.backbone: is missing: give the checkpoint .* or set "
                r"init: scratch"
            ),
        ),
        (
            "init: scratch",
            r"stages\.coco\.model: is missing: init: scratch needs it, such as cat_small",
        ),
        (
            "init: scratch\n    model: cat_tiny\n    backbone: pretrain.checkpoint",
            r"job\.yaml:12:15: stages\.coco\.backbone: cannot be used with init: scratch",
        ),
        (
            "init: scratch\n    model: cat_huge",
            r"stages\.coco\.model: .*cat_tiny.*cat_small.*cat_base",
        ),
    ],
)
def test_job_without_a_start_is_refused_at_its_line(
    tmp_path: Path, fields: str, fault: str
) -> None:
    path = tmp_path / "job.yaml"
    pretrain = "  pretrain: {kind: pretrain, data: sample:digits}\n"
    stage = "  coco:\n    kind: detection\n    method: fcos\n    data: sample:digits\n"
    path.write_text(
        f"name: job\nstore: store\nstages:\n{pretrain}{stage}    epochs: 1\n    {fields}\n"
    )
    with pytest.raises(SpecError, match=fault):
        load_job(path, kinds=KINDS, base_dir=tmp_path)


def test_evaluation_of_a_checkpoint_needs_no_start(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    scratch = (
        "  coco: {kind: detection, method: fcos, data: sample:digits, init: scratch, model: "
        "cat_tiny}\n"
    )
    measured = "  of: {kind: evaluate, of: coco}\n"
    task = (
        "  task: {kind: evaluate, task: detection, method: fcos, data: sample:digits, "
        "checkpoint: coco.checkpoint}\n"
    )
    path.write_text(f"name: job\nstore: store\nstages:\n{scratch}{measured}{task}")
    job = load_job(path, kinds=KINDS, base_dir=tmp_path)
    assert {name: dict(stage.inputs) for name, stage in job.stages.items()}["coco"] == {}
    assert set(job.stages["task"].inputs) == {"checkpoint"}


def test_lr_scales_with_batch_and_enters_the_key_by_effect() -> None:
    common: dict[str, Any] = {"method": "fcos", "backbone": "p.checkpoint", "data": "d"}
    plain, large = DetectionParams(**common), DetectionParams(**common, batch_size=64)
    assert plain.peak_lr == 1e-4
    assert large.peak_lr == 4e-4
    assert _params(Path("d"), lr=None, batch_size=8).peak_lr == 3e-5
    assert DetectionParams(**common, lr=1e-4).in_key() == plain.in_key()
    assert DetectionParams(**common, batch_size=64, lr=4e-4).in_key() == large.in_key()
    assert DetectionParams(**common, lr=2e-4).in_key() != plain.in_key()
    assert lr_line(plain) == "lr 0.0001 for 16 images an iteration: the published 0.0001 for 16"
    assert (
        lr_line(large)
        == "lr 0.0004 for 64 images an iteration: the published 0.0001 for 16, scaled linearly"
    )
    assert lr_line(DetectionParams(**common, batch_size=32, lr=1e-3)) == (
        "lr 0.001 for 32 images an iteration, set by the job; the published 0.0001 for 16 would "
        "scale to 0.0002"
    )


def test_published_model_has_the_same_key_by_name_or_settings() -> None:
    common: dict[str, Any] = {"method": "semantic_fpn", "init": "scratch", "data": "d"}
    named = SegmentationParams(**common, model="cat_small")
    assert (
        SegmentationParams(**common, model=ModelParams(drop_path_rate=0.2)).in_key()
        == named.in_key()
    )
    assert (
        SegmentationParams(**common, model=ModelParams(drop_path_rate=0.3)).in_key()
        != named.in_key()
    )


@pytest.mark.parametrize(
    ("epochs", "steps"),
    [(12, (8, 11)), (24, (16, 22)), (36, (27, 33)), (6, (4, 5)), (2, (1,)), (1, ())],
)
def test_milestones_follow_the_schedule(epochs: int, steps: tuple[int, ...]) -> None:
    params = DetectionParams(method="fcos", backbone="p.checkpoint", data="d", epochs=epochs)
    assert params.steps == steps
    if steps:
        assert (
            DetectionParams(**{**params.model_dump(), "milestones": steps}).in_key()
            == params.in_key()
        )
    assert DetectionParams(**{**params.model_dump(), "milestones": (3,)}).steps == (3,)


def test_widths_of_a_segmenter_enter_the_key_by_effect() -> None:
    common: dict[str, Any] = {"backbone": "p.checkpoint", "data": "d"}
    fpn, upernet = (
        SegmentationParams(method=method, **common) for method in ("semantic_fpn", "upernet")
    )
    assert fpn.widths.pyramid == 256
    assert fpn.widths.head == 128
    assert upernet.widths.pyramid == 512
    assert upernet.widths.head == 256
    assert (
        SegmentationParams(method="upernet", channels=512, head_channels=256, **common).in_key()
        == upernet.in_key()
    )
    assert SegmentationParams(method="upernet", channels=256, **common).in_key() != upernet.in_key()
    with pytest.raises(ValueError, match=r"min_lr\s+must be 0 with layer_decay and schedule: poly"):
        SegmentationParams(method="upernet", layer_decay=0.9, min_lr=1e-6, **common)


def test_start_that_searched_params_leave_undefined_is_refused(setting: Setting) -> None:
    """A job file is checked before, but not with the values that a search finds."""
    params = _params(setting.data, init="scratch", model=None)
    context = make_context(Recorder(setting.root / "undefined"), params, setting.backbone)
    with pytest.raises(
        JobError,
        match=r"^backbone: cannot be used with init: scratch, .*; remove one of them\n"
        r"model: is missing: init: scratch needs it, such as cat_small$",
    ):
        make_backbone_init(context)
