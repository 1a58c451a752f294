"""Runs an entry point in two processes on one gloo group, as the workers of a stage would."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed

from orchestrator.artifact import Metric
from orchestrator.contract import Entry, StageContext

WORLD_SIZE = 2


def metrics_of_two_ranks(run: Entry, context: StageContext, root: Path) -> list[tuple[Metric, ...]]:
    """The metrics that each rank returns. `context` is that of one worker; `root` is an empty folder.

    Rank 0's outputs are in `root / "work0" / "outputs"` afterwards.
    """
    spawning = multiprocessing.get_context("spawn")
    processes = [spawning.Process(target=_run_rank, args=(rank, run, context, root)) for rank in range(WORLD_SIZE)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    return [pickle.loads((root / f"metrics{rank}").read_bytes()) for rank in range(WORLD_SIZE)]


def _run_rank(rank: int, run: Entry, context: StageContext, root: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD_SIZE))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{root}/group", rank=rank, world_size=WORLD_SIZE)
    work_dir = root / f"work{rank}"
    work_dir.mkdir()
    result = run(replace(context, rank=rank, world_size=WORLD_SIZE, work_dir=work_dir))
    (root / f"metrics{rank}").write_bytes(pickle.dumps(result.metrics))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
