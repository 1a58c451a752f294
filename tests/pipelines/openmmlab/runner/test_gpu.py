"""Tests of fine-tuning on a GPU. Their CPU twins are test_exact_resume, test_distributed, test_ops
and the tests of methods."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from safetensors.torch import load_file
from torch import Tensor

from cat_model import CatBackbone, CatConfig
from orchestrator.contract import Entry, Params, StageContext, StageResult
from orchestrator.errors import StoppedError
from pipelines.detection import train as detection
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab import library
from pipelines.openmmlab.recipe import Config
from pipelines.segmentation import model as segmentation_models
from pipelines.segmentation import train as segmentation
from pipelines.segmentation.params import SegmentationParams
from pipelines.training.compiling import compile_in_place
from tests.pipelines.openmmlab.harness import (
    PX,
    Recorder,
    make_context,
    on_val,
    save_toy_checkpoint,
    write_ade20k,
    write_coco,
)
from tests.pipelines.ranks import of_rank, run_ranks

with library.quiet_import():
    from mmcv.ops import nms, roi_align, sigmoid_focal_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
GPU = "cuda:0"
SMALL: dict[str, Any] = {
    "backbone": "p.checkpoint",
    "img_scale": (PX, PX),
    "batch_size": 4,
    "loader_workers": 0,
    "lr": 1e-3,
    "channels": 32,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data of both kinds and a pretrained network."""
    root = tmp_path_factory.mktemp("gpu")
    write_coco(root / "coco")
    write_ade20k(root / "ade20k")
    save_toy_checkpoint(root / "pretrained")
    save_toy_checkpoint(root / "of_that_size", img_size=PX)
    return root


def _stage(root: Path, method: str, **fields: Any) -> tuple[Entry, Params]:
    """A stage with four updates of `method`, in two epochs for a detector."""
    if method in ("semantic_fpn", "upernet"):
        recipe = {
            "max_iters": 4,
            "warmup_iters": 1,
            "crop_size": PX,
            "head_channels": 32,
            "data": str(root / "ade20k"),
        }
        return segmentation.run, SegmentationParams(
            **{**SMALL, **recipe, "method": method, **fields}
        )
    recipe = {"epochs": 2, "warmup_iters": 1, "clip_grad": 5.0, "data": str(root / "coco")}
    heads = {"fc_channels": 32, "num_rois": 16} if "rcnn" in method else {}
    return detection.run, DetectionParams(
        **{**SMALL, **recipe, **heads, "method": method, **fields}
    )


def _train(
    root: Path,
    recorder: Recorder,
    stage: tuple[Entry, Params],
    *,
    start: str = "pretrained",
    **more: Any,
) -> StageResult:
    run, params = stage
    return run(replace(make_context(recorder, params, root / start, **more), device=GPU))


def _weights(result: StageResult) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(result.outputs["checkpoint"] / "model.safetensors")
    return tensors


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("mask_rcnn", {"precision": "bf16", "multi_scale": True}),
        ("mask_rcnn", {"precision": "fp16", "frozen_stages": 1, "layer_decay": 0.8}),
        ("retinanet", {"precision": "bf16"}),
        ("fcos", {"precision": "bf16"}),
        ("atss", {"precision": "bf16"}),
        ("cascade_rcnn", {"precision": "bf16"}),
        ("semantic_fpn", {"precision": "fp16"}),
        ("upernet", {"precision": "bf16"}),
    ],
)
def test_every_method_trains_in_mixed_precision(
    root: Path, tmp_path: Path, method: str, fields: dict[str, Any]
) -> None:
    recorder = Recorder(tmp_path / "r")
    result = _train(root, recorder, _stage(root, method, **fields))
    assert all(math.isfinite(value) for metrics in recorder.metrics for value in metrics.values())
    assert all(
        tensor.isfinite().all()
        for tensor in _weights(result).values()
        if tensor.is_floating_point()
    )
    before = load_file(root / "pretrained" / "model.safetensors")[
        "stages.3.blocks.0.cpsa.mlp.fc1.weight"
    ]
    assert not torch.equal(
        _weights(result)["backbone.stages.3.blocks.0.cpsa.mlp.fc1.weight"], before
    )


@pytest.mark.usefixtures("deterministic")
@pytest.mark.filterwarnings("ignore:.*deterministic:UserWarning")
@pytest.mark.parametrize(
    ("method", "fields"),
    [("retinanet", {"precision": "fp16"}), ("semantic_fpn", {"precision": "bf16"})],
)
def test_stop_after_any_update_does_not_change_the_result(
    root: Path, tmp_path: Path, method: str, fields: dict[str, Any]
) -> None:
    """With fp16 the resumed attempt restores its loss scale.

    The position embedding has the size of the maps, because CUDA adds the gradients of a bicubic
    resize in any order.
    """
    stage = _stage(root, method, **fields)
    straight = _train(root, Recorder(tmp_path / "straight"), stage, start="of_that_size")
    stopped = Recorder(tmp_path / "stopped", stops_after=3)
    with pytest.raises(StoppedError):
        _train(root, stopped, stage, start="of_that_size")
    last: dict[str, Any] = {"start": "of_that_size", "resume_dir": stopped.saved[-1]}
    resumed = _train(root, Recorder(tmp_path / "resumed"), stage, **last)
    assert on_val(resumed) == on_val(straight)
    weights = _weights(straight)
    assert [
        name for name, tensor in _weights(resumed).items() if not torch.equal(tensor, weights[name])
    ] == []


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning"
)  # of dynamo about itself
def test_compiled_training_has_nearly_the_same_losses(root: Path, tmp_path: Path) -> None:
    recorders = {
        is_compiled: Recorder(tmp_path / str(is_compiled)) for is_compiled in (False, True)
    }
    for is_compiled, recorder in recorders.items():
        _train(
            root,
            recorder,
            _stage(root, "fcos", multi_scale=True, drop_path_rate=0.0, compile=is_compiled),
        )
    assert not any("uncompiled" in event.text for event in recorders[True].events)
    losses = [
        [metrics["loss"] for metrics in recorders[is_compiled].metrics]
        for is_compiled in (False, True)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning"
)  # of dynamo about itself
def test_compiled_backbone_equals_plain_at_published_size(root: Path, tmp_path: Path) -> None:
    """With many windows the compiler rounds strides up, unless an option forbids it
    (test_compiling)."""
    torch.manual_seed(0)
    backbone = CatBackbone(
        CatConfig(embed_dim=96, depths=(1, 1), num_heads=(3, 6)), out_indices=(0, 1)
    ).to(GPU)
    images = torch.randn(2, 3, 800, 1088, device=GPU)
    found = []
    for is_compiled in (False, True):
        if is_compiled:
            assert compile_in_place([backbone], make_context(Recorder(tmp_path), Params(), root))
        with torch.autocast("cuda", torch.bfloat16):
            maps = backbone(images)
        # Weights channels differently, because a norm keeps the sum of squares for any input.
        losses = [
            torch.einsum("bchw,c->", map_.float(), torch.linspace(-1, 1, map_.shape[1]).to(GPU))
            for map_ in maps
        ]
        gradients = torch.autograd.grad(losses, list(backbone.parameters()))
        found.append(
            [
                *(map_.detach() for map_ in maps),
                torch.cat([gradient.flatten() for gradient in gradients]),
            ]
        )
    for eager, compiled in zip(*found, strict=True):
        assert (compiled - eager).norm() < 0.03 * eager.norm()


def _train_rank(rank: int, root: Path, to: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "all_gather", _gather_by_cpu)
        of = partial(of_rank, rank=rank, work_dir=to / f"work{rank}")
        _train_without_dropout(root, Recorder(to / f"rank{rank}"), of)


def _gather_by_cpu(gathered: list[Tensor], tensor: Tensor, *args: Any, **kwargs: Any) -> None:
    """Gathers over the CPU, because gloo cannot gather GPU tensors."""
    of_cpu = [one.cpu() for one in gathered]
    all_gather(of_cpu, tensor.cpu(), *args, **kwargs)
    for one, found in zip(gathered, of_cpu, strict=True):
        one.copy_(found)


all_gather = torch.distributed.all_gather


def _train_without_dropout(
    root: Path, recorder: Recorder, of: Callable[[StageContext], StageContext]
) -> None:
    """Trains without randomness in the network, because it depends on the rank. The random numbers
    of the images do not."""
    run, params = _stage(root, "semantic_fpn", drop_path_rate=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmentation_models, "make_model", _without_dropout)
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        run(of(replace(make_context(recorder, params, root / "pretrained"), device=GPU)))
    torch.save(recorder.metrics, recorder.root / "metrics")


def _without_dropout(*args: Any, **kwargs: Any) -> Config:
    model = make_model(*args, **kwargs)
    assert model["decode_head"]["norm_cfg"]["type"] == "SyncBN"
    return {**model, "decode_head": {**model["decode_head"], "dropout_ratio": 0.0}}


make_model = segmentation_models.make_model


def test_two_ranks_train_like_one_with_shared_batch_norm(root: Path, tmp_path: Path) -> None:
    """Both ranks use this GPU. NCCL refuses that, so their group uses gloo."""
    run_ranks(_train_rank, tmp_path, root, tmp_path)
    _train_without_dropout(root, Recorder(tmp_path / "alone"), lambda context: context)
    losses = {
        name: [
            metrics["loss"]
            for metrics in torch.load(tmp_path / name / "metrics", weights_only=True)
        ]
        for name in ("rank0", "rank1", "alone")
    }
    assert losses["rank0"] == losses["rank1"] == pytest.approx(losses["alone"], rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_ops_on_gpu_equal_ops_on_cpu(dtype: torch.dtype) -> None:
    """Both get the same inputs, rounded to `dtype`. Compares the gradients too."""
    torch.manual_seed(0)
    maps, logits = torch.randn(2, 8, 16, 16).to(dtype), torch.randn(300, 5).to(dtype)
    corners = torch.rand(60, 2) * 40
    boxes, scores = torch.cat([corners, corners + 4 + torch.rand(60, 2) * 20], 1), torch.rand(60)
    rois = torch.cat([torch.randint(0, 2, (60, 1)).float(), boxes], 1)
    targets, weight = torch.randint(0, 6, (300,)), torch.rand(5)
    rtol, atol = (1e-5, 1e-5) if dtype is torch.float32 else (2e-2, 1e-2)
    for op, leaf, rest in (
        (roi_align, maps, (rois.to(dtype), (7, 7), 0.25, 0)),
        (sigmoid_focal_loss, logits, (targets, 2.0, 0.25, weight)),
    ):
        on_cpu, on_gpu = (_value_and_gradient(op, leaf, rest, device) for device in ("cpu", GPU))
        for one, other in zip(on_gpu, on_cpu, strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=rtol, atol=atol)
    kept = [nms(boxes.to(device), scores.to(device), 0.5)[1].cpu() for device in ("cpu", GPU)]
    assert torch.equal(*kept)


def _value_and_gradient(
    op: Callable[..., Tensor], leaf: Tensor, rest: tuple[Any, ...], device: str
) -> list[Tensor]:
    leaf = leaf.to(device).requires_grad_()
    value = op(leaf, *(one.to(device) if isinstance(one, Tensor) else one for one in rest))
    (gradient,) = torch.autograd.grad(value.float().square().sum(), leaf)
    return [value.detach(), gradient]
