"""Two processes on one gloo group train one model: equal weights and metrics on both ranks."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch import nn

from orchestrator.errors import StageError
from pipelines.openmmlab.runner import check_equal_on_ranks
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
    run(replace(context, world_size=WORLD_SIZE))
    assert [path is not None for path in recorder.checkpoints] == [rank == 0]
    assert bool(recorder.events) == (rank == 0)
    (root / f"metrics{rank}.txt").write_text(repr(recorder.metrics[-1]["miou"]))
    torch.manual_seed(rank)
    with pytest.raises(StageError, match="parameters differ between the 2 workers"):
        check_equal_on_ranks(nn.Linear(2, 2))
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False")
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    write_ade20k(tmp_path / "ade20k", num_val=3)
    save_toy_checkpoint(tmp_path / "pretrained")
    spawning = multiprocessing.get_context("spawn")
    processes = [spawning.Process(target=_train_rank, args=(rank, tmp_path)) for rank in range(WORLD_SIZE)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    # A stage ends by comparing the weights of its ranks, so exit code 0 says that they are equal.
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "metrics0.txt").read_text() == (tmp_path / "metrics1.txt").read_text()
