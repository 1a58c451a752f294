"""`python -m benchmarks.overhead_rival SETTINGS`: a training as a bare DDP script.

It is the rival of benchmarks.overhead: one gloo process, ImageFolder, timm's transform, Mixup and
schedule. Only the network is ours. SETTINGS is a JSON file with the fields of a pretraining stage.
The script prints one JSON object per epoch.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from timm.data import Mixup, auto_augment, create_transform
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from torchvision.datasets import ImageFolder

from cat_model import Cat, CatConfig


def posterize(image: Image.Image, bits_to_keep: int, **_: object) -> Image.Image:
    """timm's posterize, except for 0 bits, which timm asks for at full magnitude.

    Since Pillow 13 that raises, so 0 bits return a black image.
    """
    return (
        auto_augment.posterize(image, bits_to_keep)
        if bits_to_keep
        else Image.new(image.mode, image.size)
    )


def main(settings: dict[str, Any]) -> None:
    """Train, without evaluation and checkpoints."""
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    torch.manual_seed(0)
    batch_size, epochs, lr = settings["batch_size"], settings["epochs"], settings["lr"]
    auto_augment.NAME_TO_OP["PosterizeIncreasing"] = posterize
    transform = create_transform(
        settings["model"]["img_size"],
        is_training=True,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
    )
    images = ImageFolder(str(Path(settings["data"]) / "train"), transform)
    sampler: DistributedSampler[Any] = DistributedSampler(images, num_replicas=1, rank=0)
    loader: DataLoader[Any] = DataLoader(images, batch_size, sampler=sampler, drop_last=True)
    mixup = Mixup(
        mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=len(images.classes)
    )
    model = DistributedDataParallel(
        Cat(CatConfig(**settings["model"]), num_classes=len(images.classes))
    )
    optimizer = create_optimizer_v2(model.module, "adamw", lr=lr, weight_decay=0.05, fused=True)
    total, warmup = epochs * len(loader), settings["warmup_epochs"] * len(loader)
    schedule = CosineLRScheduler(
        optimizer,
        total,
        lr_min=lr / 100,
        warmup_t=warmup,
        warmup_lr_init=lr / 1000,
        t_in_epochs=False,
    )
    criterion = SoftTargetCrossEntropy()
    model.train()  # type: ignore[no-untyped-call]
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        start_s, losses = time.monotonic(), []
        for step, (x_BCHW, labels_B) in enumerate(loader):  # noqa: N806  shapes
            x_BCHW, targets_BK = mixup(x_BCHW, labels_B)  # noqa: N806, PLW2901
            loss = criterion(model(x_BCHW), targets_BK)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step_update(epoch * len(loader) + step)
            losses.append(loss.detach())
        images_per_s = len(loader) * batch_size / (time.monotonic() - start_s)
        mean_loss = torch.stack(losses).mean().item()
        print(
            json.dumps({"time_s": time.time(), "images_per_s": images_per_s, "loss": mean_loss}),
            flush=True,
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
