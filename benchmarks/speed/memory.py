"""The peak memory that a step takes from torch's allocator, in bytes. Times are not measured here.

The count is what the step allocates itself: activations, gradients, results, and temporary memory
of operators. Weights, the optimizer's state and the batch exist before the step.

On a CPU torch.profiler reports every allocation and release, so the count is exact and the same
from run to run. The process's peak memory would include memory of earlier models. Memory that BLAS
and oneDNN take outside torch's allocator is not counted. On CUDA the allocator has a peak counter.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

# Without a GPU the profiler logs an error about the missing driver. It reads this variable when it
# first starts.
os.environ.setdefault("KINETO_LOG_LEVEL", "5")


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Bytes that `step` holds at its peak, minus the bytes held when it began."""
    return _peak_on_cuda(step, device) if device.type == "cuda" else _peak_on_cpu(step)


def _peak_on_cuda(step: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(step: Callable[[], object]) -> int:
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        step()
    held = peak = 0
    for change in _changes(profiler):
        held += change
        peak = max(peak, held)
    return peak


def _changes(profiler: profile) -> list[int]:
    """Bytes of each allocation (positive) and release (negative), in order of time."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_bytes())["traceEvents"]
    memory = [event for event in events if event.get("name") == "[memory]"]
    memory.sort(key=lambda event: float(event["ts"]))
    return [int(event["args"]["Bytes"]) for event in memory]
