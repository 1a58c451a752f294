"""Describes what a measurement ran on: machine, threads and versions, by name."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import timm
import torch


def describe_machine(device: torch.device) -> dict[str, str | int]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "cpu": _cpu(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def _cpu() -> str:
    """The CPU model's name from Linux, else from Python."""
    try:
        found = re.search(
            r"^model name\s*:\s*(.+)$",
            Path("/proc/cpuinfo").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
