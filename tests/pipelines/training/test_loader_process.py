"""Loader processes end with the process that they load for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

PRETRAINING = """
from pathlib import Path
from tests.pipelines.imagenet.test_dataset import encoded, make_index, noise
from tests.pipelines.imagenet.test_loading import loader_of

def make_loader(folder):
    images = {f"{i}.png": encoded(noise(seed=i), "PNG") for i in range(100)}
    return loader_of(make_index(Path(folder), images), num_workers=2)
"""
DETECTION = """
from mmengine.runner import Runner
from pipelines.openmmlab import recipe

def make_loader(folder):
    sampler = {"type": "DefaultSampler", "shuffle": False}
    config = recipe.loader(list(range(100)), batch_size=2, num_workers=2, sampler=sampler)
    return Runner.build_dataloader(config, seed=0)
"""
TRAINER = """
import multiprocessing, sys, time
from multiprocessing import forkserver

if __name__ == "__main__":
    batches = iter(make_loader(sys.argv[1]))
    next(batches)
    loaders = [process.pid for process in multiprocessing.active_children()]
    print(*loaders, forkserver._forkserver._forkserver_pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("made_by", [PRETRAINING, DETECTION], ids=["pretraining", "detection"])
def test_loader_processes_end_after_their_trainer_was_killed(tmp_path: Path, made_by: str) -> None:
    (tmp_path / "trainer.py").write_text(made_by + TRAINER)
    (tmp_path / "images").mkdir()
    with subprocess.Popen(
        [sys.executable, "trainer.py", "images"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as trainer:
        assert trainer.stdout is not None
        processes = [int(word) for word in trainer.stdout.readline().split()]
        trainer.kill()
    assert len(processes) == 3
    deadline_s = time.monotonic() + 120
    while left := [process for process in processes if Path(f"/proc/{process}").exists()]:
        assert time.monotonic() < deadline_s, left
        time.sleep(0.1)
