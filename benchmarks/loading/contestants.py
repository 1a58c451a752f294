"""Ways to load a pass of training batches in one loader process, and the CPU time of a pass.

The CPU time is the sum over the loader process and the training process.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from benchmarks.loading.settings import Settings
from pipelines.imagenet.augmentation import Mode, images_of, make_train_augmentation
from pipelines.imagenet.dataset import Batch, Images, TrainSampler, collate
from pipelines.imagenet.folders import load_index
from pipelines.imagenet.transforms import Recipe, train_transform

RIVAL = "ImageFolder + timm"


@dataclass
class Contestant:
    """A loader with its own worker process, which stays idle between passes."""

    name: str
    loader: DataLoader[Any]
    finish: Callable[[Any], Tensor]
    """What the training process does to a batch before the network sees it."""
    worker_pids: tuple[int, ...] = field(default=())

    def start(self) -> None:
        """Run a first pass, which starts the worker process and warms the caches."""
        others = {child.pid for child in multiprocessing.active_children()}
        self._pass()
        started = {child.pid for child in multiprocessing.active_children()} - others
        self.worker_pids = tuple(pid for pid in started if pid is not None)

    def pass_cpu_s(self) -> float:
        """CPU seconds of a pass: the loader's process plus this one."""
        start = self._cpu_s()
        self._pass()
        return self._cpu_s() - start

    def _pass(self) -> None:
        for batch in self.loader:
            self.finish(batch)

    def _cpu_s(self) -> float:
        return time.process_time() + sum(map(_cpu_s_of, self.worker_pids))


def make_rival(root: Path, recipe: Recipe, settings: Settings) -> Contestant:
    """torchvision's folders, timm's transform and torch's collate, as in a plain script.

    It uses our posterize, because timm's own raises on Pillow 13 when it is asked for 0 bits.
    """
    transform = train_transform(recipe).transform
    loader = _loader(ImageFolder(str(root / "train"), transform=transform), settings, shuffle=True)
    return Contestant(RIVAL, loader, lambda batch: batch[0])


def make_ours(mode: Mode, root: Path, recipe: Recipe, settings: Settings) -> Contestant:
    """The loader of a pretraining stage with `augmentation: mode`.

    A pass leaves out the operations that `device` runs on the device.
    """
    augmentation = make_train_augmentation(mode, recipe)
    index = load_index(
        root, "train", tuple(sorted(path.name for path in (root / "train").iterdir()))
    )
    loader = _loader(
        Images(index, augmentation.image, seed=0, substitutes=0),
        settings,
        sampler=TrainSampler(index, batch_size=settings.batch_size, seed=0, rank=0, world_size=1),
        collate_fn=collate,
    )
    return Contestant(mode, loader, images_of if mode == "device" else augmentation.batch)


def batches_of(contestant: Contestant) -> Iterator[Batch]:
    """Yield the batches of one pass, as the loader returns them."""
    yield from contestant.loader


def _loader(dataset: Any, settings: Settings, **options: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_size=settings.batch_size,
        num_workers=1,
        persistent_workers=True,
        generator=torch.Generator(),
        **options,
    )


def _cpu_s_of(pid: int) -> float:
    """CPU seconds of all threads of a process, from the Linux CPU clock of that process."""
    return time.clock_gettime((~pid << 3) | 2)
