"""Runs entry points in processes of one gloo group, like the workers of a stage."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from orchestrator.artifact import Metric
from orchestrator.contract import Entry, StageContext

WORLD_SIZE = 2


def metrics_of_two_ranks(run: Entry, context: StageContext, root: Path) -> list[tuple[Metric, ...]]:
    """The metrics that each rank returns. `context` is for one worker; `root` is an empty folder.

    Rank 0's outputs are in `root / "work0" / "outputs"` afterwards.
    """
    run_ranks(_run_entry, root, run, context, root)
    return [pickle.loads((root / f"metrics{rank}").read_bytes()) for rank in range(WORLD_SIZE)]


def _run_entry(rank: int, run: Entry, context: StageContext, root: Path) -> None:
    result = run(of_rank(context, rank, root / f"work{rank}"))
    (root / f"metrics{rank}").write_bytes(pickle.dumps(result.metrics))


def of_rank(context: StageContext, rank: int, work_dir: Path) -> StageContext:
    """The context of one worker, in its process, with its own folder, which is created."""
    work_dir.mkdir(parents=True)
    return replace(
        context, rank=rank, world_size=torch.distributed.get_world_size(), work_dir=work_dir
    )


def run_ranks(
    function: Callable[..., None], root: Path, *args: Any, world_size: int = WORLD_SIZE
) -> None:
    """Call `function(rank, *args)` in processes of one group, which connect through the folder
    `root`; all must succeed."""
    spawning = multiprocessing.get_context("spawn")
    processes = [
        spawning.Process(target=_run_rank, args=(rank, world_size, root, function, args))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * world_size


def _run_rank(
    rank: int, world_size: int, root: Path, function: Callable[..., None], args: tuple[Any, ...]
) -> None:
    """Runs like a worker of Ray Train: the environment and the group exist before the stage
    starts."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{root}/group", rank=rank, world_size=world_size
    )
    function(rank, *args)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    deadline = time.monotonic() + 30  # the system may still list a thread that has just been joined
    while _threads_of_gloo():
        assert time.monotonic() < deadline, (
            "something holds the group: its threads can abort the process when it ends"
        )
        time.sleep(0.1)


def _threads_of_gloo() -> int:
    """Number in this process; 0 if the system does not report it."""
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # it may have ended meanwhile
            names.append(path.read_text().strip())
    return names.count("pt_gloo_runloop")
