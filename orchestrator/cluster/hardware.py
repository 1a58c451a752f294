"""What a worker runs on: its machine, its GPUs and their libraries, and the energy that they used.

Reads files of the system, torch if the worker uses a GPU, and NVIDIA's management library.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Hardware:
    """The machine of one worker and the GPUs that it sees."""

    host: str
    cpu: str
    cores: int
    memory_gib: float | None
    gpus: Mapping[str, str] = field(default_factory=dict)
    """The name of each GPU, by its UUID."""
    driver: str | None = None
    cuda: str | None = None
    nccl: str | None = None
    energy_j: Mapping[str, float] | None = None
    """Joules that each GPU used while the worker ran, by UUID. None if the worker has not ended, or
    if the GPUs do not report it."""


def describe_machine(*, uses_gpu: bool) -> Hardware:
    """Return the hardware of this process. GPUs are included only if it uses one."""
    hardware = Hardware(
        host=socket.gethostname(),
        cpu=cpu_model(_text_of(CPUINFO)) or platform.processor() or platform.machine(),
        cores=os.cpu_count() or 1,
        memory_gib=memory_gib(_text_of(MEMINFO)),
    )
    return _with_gpus(hardware) if uses_gpu else hardware


def cpu_model(cpuinfo: str) -> str | None:
    """Return the model in the text of /proc/cpuinfo. ARM processors have none there."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return " ".join(found[1].split()) if found else None


def memory_gib(meminfo: str) -> float | None:
    """Return the size of the memory in the text of /proc/meminfo, in GiB."""
    found = re.search(r"^MemTotal:\s*(\d+) kB$", meminfo, re.MULTILINE)
    return round(int(found[1]) / 2**20, 1) if found else None


def _text_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # another system than Linux
        return ""


def _with_gpus(hardware: Hardware) -> Hardware:
    import torch  # noqa: PLC0415  a worker with a GPU has it, others need two seconds for it

    if not torch.cuda.is_available():
        return hardware
    devices = [
        torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())
    ]
    return replace(
        hardware,
        gpus={str(device.uuid): device.name for device in devices},
        driver=_driver_version(),
        cuda=torch.version.cuda,
        nccl=".".join(map(str, torch.cuda.nccl.version())),  # type: ignore[no-untyped-call]
    )


def read_energy_j(uuids: Iterable[str]) -> dict[str, float]:
    """Return the joules that these GPUs have used since their driver was loaded, by UUID.

    GPUs that do not report it, such as parts of one GPU, are left out.
    """
    found: dict[str, float] = {}
    for uuid in uuids:
        millijoules = _ask(
            lambda nvml, uuid=uuid: nvml.nvmlDeviceGetTotalEnergyConsumption(
                nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
            )
        )
        if millijoules is not None:
            found[uuid] = millijoules / 1000
    return found


def _driver_version() -> str | None:
    version = _ask(lambda nvml: nvml.nvmlSystemGetDriverVersion())
    return version.decode() if isinstance(version, bytes) else version


def _ask(question: Any) -> Any:
    """Return the answer of NVIDIA's management library; None if it has none."""
    # Ray's own copy: the library is not a dependency of torch.
    from ray._private.thirdparty import pynvml  # noqa: PLC0415  only for GPUs

    try:
        pynvml.nvmlInit()  # once more is harmless
        return question(pynvml)
    except pynvml.NVMLError:
        return None


def torch_facts() -> dict[str, Any]:
    """Return the device of this process, and the number of torch's threads if it uses torch."""
    cpu = platform.processor() or platform.machine()
    torch = sys.modules.get("torch")
    if torch is None:
        return {"device": cpu}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    return {"device": device, "num_threads": torch.get_num_threads()}
