"""Processes in one gloo group train one model: with the result of a single worker, equal on all
ranks, and with a stop after the same update."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from orchestrator.contract import Params, StageContext, StageResult
from orchestrator.errors import StageError, StoppedError
from pipelines.detection import train as detection
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.recipe import Config
from pipelines.openmmlab.runner import StageRunner
from pipelines.segmentation import model as segmentation_models
from pipelines.segmentation import train as segmentation
from pipelines.segmentation.params import SegmentationParams
from pipelines.training.distributed import check_equal_on_ranks
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

SMALL: dict[str, Any] = {
    "backbone": "p.checkpoint",
    "img_scale": (PX, PX),
    "batch_size": 4,
    "loader_workers": 0,
}


def segmentation_params(root: Path, **changes: Any) -> SegmentationParams:
    recipe = {
        "method": "semantic_fpn",
        "max_iters": 3,
        "warmup_iters": 1,
        "lr": 1e-3,
        "crop_size": PX,
    }
    small = {"channels": 8, "head_channels": 8, "data": str(root / "ade20k")}
    return SegmentationParams(**{**SMALL, **recipe, **small, **changes})


def detection_params(root: Path, **changes: Any) -> DetectionParams:
    recipe = {
        "method": "fcos",
        "epochs": 2,
        "warmup_iters": 0,
        "lr": 1e-3,
        "channels": 8,
        "data": str(root / "coco"),
    }
    return DetectionParams(**{**SMALL, **recipe, **changes})


def context_of_rank(
    root: Path, params: Params, recorder: Recorder, rank: int, **more: Any
) -> StageContext:
    return of_rank(
        make_context(recorder, params, root / "pretrained", **more), rank, recorder.root / "of_rank"
    )


def weights(result: StageResult) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(result.outputs["checkpoint"] / "model.safetensors")
    return tensors


def _stop_and_go_on(rank: int, root: Path) -> None:
    """Only rank 1 is asked to stop, after the second of three updates. All ranks resume and reach
    the weights of a straight run."""
    params = segmentation_params(root, batch_size=6)
    straight = Recorder(root / f"straight{rank}")
    with pytest.MonkeyPatch.context() as patch:
        layouts = _watch_layouts(patch)
        result = segmentation.run(context_of_rank(root, params, straight, rank))
    assert layouts == [0], (
        "the gradient layout changed: sums over three ranks would depend on the attempt's start"
    )
    assert [path is not None for path in straight.checkpoints] == [rank == 0]
    assert bool(straight.events) == (rank == 0)
    stopped = Recorder(root / f"stopped{rank}", stops_after=2 if rank == 1 else None)
    with pytest.raises(StoppedError, match="the last checkpoint is after 2 iterations"):
        segmentation.run(context_of_rank(root, params, stopped, rank))
    assert len(stopped.saved) == (rank == 0)
    torch.distributed.barrier()
    resumed = Recorder(root / f"resumed{rank}")
    resume_dir = root / "stopped0" / "saved" / "iteration_0000002"
    again = segmentation.run(context_of_rank(root, params, resumed, rank, resume_dir=resume_dir))
    assert on_val(again) == on_val(result)
    assert resumed.metrics == straight.metrics
    if rank == 0:
        assert all(
            torch.equal(tensor, weights(result)[name]) for name, tensor in weights(again).items()
        )
    (root / f"metrics{rank}").write_bytes(pickle.dumps(straight.metrics))
    torch.manual_seed(rank)
    with pytest.raises(StageError, match="parameters differ between the 3 workers after training"):
        check_equal_on_ranks(nn.Linear(2, 2), when="after training")


def _watch_layouts(patch: pytest.MonkeyPatch) -> list[int]:
    """How often DistributedDataParallel changed the layout of its gradients, recorded when each
    runner is closed."""
    layouts: list[int] = []
    close = StageRunner.close

    def close_noting(runner: StageRunner) -> None:
        model: Any = runner.model
        layouts.append(model._get_ddp_logging_data().get("has_rebuilt_buckets", 0))
        close(runner)

    patch.setattr(StageRunner, "close", close_noting)
    return layouts


def test_three_processes_train_one_model_and_stop_together(tmp_path: Path) -> None:
    """The sum over two ranks has the same bits in any order. The sum over three depends on the
    order."""
    write_ade20k(tmp_path / "ade20k", num_val=3)
    save_toy_checkpoint(tmp_path / "pretrained")
    # A stage compares the weights of its ranks, so exit codes of 0 prove that they are equal.
    run_ranks(_stop_and_go_on, tmp_path, tmp_path, world_size=3)
    metrics = [pickle.loads((tmp_path / f"metrics{rank}").read_bytes()) for rank in range(3)]
    assert metrics == metrics[:1] * 3


def _train_both(rank: int, root: Path) -> None:
    """Trains stages without randomness in the network, because it depends on the rank, and with
    norms of single images."""
    _train_both_as(
        root, str(rank), lambda params, recorder: context_of_rank(root, params, recorder, rank)
    )


def _train_both_as(root: Path, name: str, context_of: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmentation_models, "make_model", _with_group_norm)
        params: Any
        for run, params in (
            (segmentation.run, segmentation_params(root, drop_path_rate=0.0)),
            (detection.run, detection_params(root, drop_path_rate=0.0)),
        ):
            recorder = Recorder(root / f"{params.method}{name}")
            run(context_of(params, recorder))
            (recorder.root / "metrics.json").write_text(json.dumps(recorder.metrics))


def _with_group_norm(*args: Any, **kwargs: Any) -> Config:
    """Replaces BatchNorm, which on CPUs normalises each worker's part of the batch separately,
    unlike SyncBN on GPUs."""
    model = make_segmenter(*args, **kwargs)
    head = {
        **model["decode_head"],
        "norm_cfg": {"type": "GN", "num_groups": 4},
        "dropout_ratio": 0.0,
    }
    return {**model, "decode_head": head}


make_segmenter = segmentation_models.make_model


@pytest.mark.slow
def test_two_workers_train_like_one_with_the_same_batch(tmp_path: Path) -> None:
    write_ade20k(tmp_path / "ade20k")
    write_coco(tmp_path / "coco")
    save_toy_checkpoint(tmp_path / "pretrained")
    run_ranks(_train_both, tmp_path, tmp_path)
    _train_both_as(
        tmp_path,
        "alone",
        lambda params, recorder: make_context(recorder, params, tmp_path / "pretrained"),
    )
    for method in ("semantic_fpn", "fcos"):
        losses, tensors = zip(
            *(_trained(tmp_path / f"{method}{name}") for name in ("0", "alone")), strict=True
        )
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        distances = torch.cat(
            [(tensors[0][name] - tensor).abs().flatten() for name, tensor in tensors[1].items()]
        )
        # AdamW takes a step of lr = 1e-3 even if a gradient is only rounding error.
        assert float(distances.quantile(0.98)) < 1e-5, method


def _trained(root: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses that a stage reported, and its final weights."""
    losses = [metrics["loss"] for metrics in json.loads((root / "metrics.json").read_text())]
    (path,) = root.glob("*/outputs/checkpoint/model.safetensors")
    return losses, {
        name: tensor for name, tensor in load_file(path).items() if tensor.is_floating_point()
    }
