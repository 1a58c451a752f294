"""Two processes on one gloo group train one model: equal weights and metrics on both ranks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from safetensors.torch import load_file, save_file

from pipelines.openmmlab.runner import StageRunner, weights_of
from pipelines.segmentation.params import SegmentationParams
from pipelines.segmentation.train import run
from tests.pipelines.openmmlab.harness import Recorder, make_context, save_toy_checkpoint, write_ade20k

WORLD_SIZE = 2


def _train_rank(rank: int, root: Path) -> None:
    """What a worker of Ray Train would run: the environment and the group are there before the stage starts."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD_SIZE))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{root}/group", rank=rank, world_size=WORLD_SIZE)
    params = SegmentationParams(
        method="semantic_fpn",
        backbone="p.checkpoint",
        data=str(root / "ade20k"),
        batch_size=4,
        max_iters=3,
        warmup_iters=1,
        lr=1e-3,
        img_scale=(64, 64),
        crop_size=64,
        channels=8,
        head_channels=8,
        loader_workers=0,
    )
    recorder = Recorder(root / str(rank))
    context = make_context(recorder, params, root / "pretrained", rank=rank)
    _keep_weights_of_each_rank(root / f"weights{rank}.safetensors")
    run(replace(context, world_size=WORLD_SIZE))
    assert [path is not None for path in recorder.checkpoints] == [rank == 0]
    assert bool(recorder.events) == (rank == 0)
    (root / f"metrics{rank}.txt").write_text(repr(recorder.metrics[-1]["miou"]))
    torch.distributed.destroy_process_group()


def _keep_weights_of_each_rank(path: Path) -> None:
    close_logs = StageRunner.close_logs

    def save_and_close(runner: StageRunner) -> None:
        save_file({name: tensor.contiguous() for name, tensor in weights_of(runner).items()}, path)
        close_logs(runner)

    StageRunner.close_logs = save_and_close  # type: ignore[method-assign]


@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False")
def test_two_processes_train_one_model(tmp_path: Path):
    write_ade20k(tmp_path / "ade20k", num_val=3)
    save_toy_checkpoint(tmp_path / "pretrained")
    torch.multiprocessing.spawn(_train_rank, (tmp_path,), nprocs=WORLD_SIZE)
    one, other = (load_file(tmp_path / f"weights{rank}.safetensors") for rank in range(WORLD_SIZE))
    learned = [name for name in one if "running_" not in name]  # batch norm's statistics are each worker's own
    assert all(torch.equal(one[name], other[name]) for name in learned)
    assert (tmp_path / "metrics0.txt").read_text() == (tmp_path / "metrics1.txt").read_text()
