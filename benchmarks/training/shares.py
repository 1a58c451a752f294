"""Where a step's time goes: the device's busy time by kind of kernel, and its idle time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

_NUM_STEPS = 3
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
"""Categories of trace events that use the device.

Annotations are left out: they span kernels and would count them twice.
"""
IDLE = "idle"
OTHER = "norm, elementwise"
_MARKS: Mapping[str, tuple[str, ...]] = {
    "optimizer, clip": ("adam", "multi_tensor", "foreach", "lpnorm", "clip_grad"),
    "attention": ("flash", "fmha", "attention", "attn", "softmax"),
    "product": (
        *(
            "gemm",
            "gemv",
            "nvjet",
            "cutlass",
            "xmma",
            "wgrad",
            "dgrad",
            "cublas",
            "triton_tem",
            "splitk",
        ),
        *("aten::mm", "addmm", "bmm", "aten::linear", "convol", "fprop", "mkldnn"),
    ),
    "copy": (
        "memcpy",
        "memset",
        "copy",
        "catarray",
        "aten::cat",
        "aten::clone",
        "nchwtonhwc",
        "nhwctonchw",
    ),
}
"""Substrings of the names of kernels (CUDA, Triton) and operators (CPU), in search order.

The softmax of the loss counts as attention; it takes a thousandth of attention's time.
"""
GROUPS = (*_MARKS, OTHER, IDLE)


def shares(step: Callable[[], None], *, step_s: float, device: torch.device) -> dict[str, float]:
    """The share of `step_s` by group; the sum is 1 if no kernels overlap.

    `step_s` is the time of a step without a profiler.
    """
    step()
    activities = [ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU]
    with profile(activities=activities, acc_events=True) as profiler:
        for _ in range(_NUM_STEPS):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    spent = _on_cuda(profiler) if device.type == "cuda" else _on_cpu(profiler)
    return shares_of(spent, total_s=step_s * _NUM_STEPS)


def shares_of(spent: Iterable[tuple[str, float]], *, total_s: float) -> dict[str, float]:
    """The share of `total_s` by group, from pairs of a kernel's or operator's name and seconds.

    The rest of the time is idle.
    """
    found = dict.fromkeys(GROUPS, 0.0)
    for name, spent_s in spent:
        found[group_of(name)] += spent_s / total_s
    found[IDLE] = max(0.0, 1 - sum(found.values()))
    return found


def group_of(name: str) -> str:
    lower = name.lower()
    # Names of fused kernels list the fused operators, and may name a product that runs before them.
    if lower.startswith("triton_") and not lower.startswith("triton_tem"):
        return OTHER
    return next(
        (group for group, marks in _MARKS.items() if any(mark in lower for mark in marks)), OTHER
    )


def _on_cuda(profiler: profile) -> list[tuple[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_bytes())["traceEvents"]
    return [
        (event["name"], float(event["dur"]) / 1e6)
        for event in events
        if event.get("cat") in _ON_DEVICE
    ]


def _on_cpu(profiler: profile) -> list[tuple[str, float]]:
    """Each operator's own time, without the operators that it calls."""
    return [(event.key, event.self_cpu_time_total / 1e6) for event in profiler.key_averages()]
