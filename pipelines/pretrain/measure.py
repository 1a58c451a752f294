"""Measures how large a classifier is, how many multiply-adds it needs, and how fast it is on this
device."""

from __future__ import annotations

import statistics
import time

import torch

from cat_model.complexity import complexity
from cat_model.model import Cat
from orchestrator.artifact import Metric, unit_of
from pipelines.pretrain.precision import Precision

BATCH_SIZE = 64
"""Batch size of the published throughput."""
NUM_BATCHES = {"cpu": (1, 3), "cuda": (10, 50)}
"""Warm-up and timed batches: on a CPU with two cores a batch of cat_small takes 6 s, on a GPU some
10 ms."""


def measure(model: Cat, *, img_size: int, device: torch.device) -> tuple[Metric, ...]:
    """Metrics params_m, flops_g, images_per_s_fp32 and images_per_s_bf16 of `model`, which is on
    `device`."""
    num_timed = BATCH_SIZE * NUM_BATCHES[device.type][1]
    values = {
        "params_m": (count_params(model) / 1e6, None),
        "flops_g": (count_multiply_adds(model, img_size=img_size) / 1e9, None),
        **{
            f"images_per_s_{name}": (
                images_per_s(model, Precision(name, device), img_size=img_size),
                num_timed,
            )
            for name in ("fp32", "bf16")
        },
    }
    return tuple(
        Metric(name=name, value=value, unit=unit_of(name), num_samples=num_samples)
        for name, (value, num_samples) in values.items()
    )


def count_params(model: Cat) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def count_multiply_adds(model: Cat, *, img_size: int) -> int:
    """Multiply-adds of all matrix products and convolutions of one image, including attention.

    For cat_tiny, cat_small and cat_base they are 2.77, 6.06 and 8.93 G. The published figures are
    2.8, 5.9 and 8.9; no single way of counting gives all three (cat_model.complexity). Shortcuts of
    our network that multiply less do not change the count.
    """
    return complexity(
        model.config, image_hw=(img_size, img_size), num_classes=model.num_classes
    ).macs.products


@torch.inference_mode()
def images_per_s(model: Cat, precision: Precision, *, img_size: int) -> float:
    """Throughput on random pixels in images per second, in batches of BATCH_SIZE: the median of the
    timed batches, after a warm-up."""
    device = precision.device
    x_BIHW = torch.randn(BATCH_SIZE, model.config.in_chans, img_size, img_size, device=device)
    num_warm, num_timed = NUM_BATCHES[device.type]
    model.eval()

    def batch_s() -> float:
        _synchronise(device)
        start_s = time.perf_counter()
        with precision.autocast():
            model(x_BIHW)
        _synchronise(device)
        return time.perf_counter() - start_s

    times_s = [batch_s() for _ in range(num_warm + num_timed)][num_warm:]
    return BATCH_SIZE / statistics.median(times_s)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
