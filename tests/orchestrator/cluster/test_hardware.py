"""What a worker notes about its machine. The GPUs, torch's view of them and NVIDIA's library are
patched: no machine of the tests has a GPU."""

from __future__ import annotations

import inspect
import socket
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray._private.thirdparty import pynvml

from orchestrator.cluster.hardware import (
    cpu_model,
    describe_machine,
    memory_gib,
    read_energy_j,
)

NVML = (
    "nvmlInit",
    "nvmlSystemGetDriverVersion",
    "nvmlDeviceGetHandleByUUID",
    "nvmlDeviceGetTotalEnergyConsumption",
)


def test_this_machine_is_described_without_gpus() -> None:
    hardware = describe_machine(uses_gpu=False)
    assert hardware.host == socket.gethostname()
    assert hardware.cores >= 1
    assert hardware.memory_gib is not None
    assert hardware.memory_gib > 0.1
    assert (hardware.gpus, hardware.nccl, hardware.energy_j) == ({}, None, None)


def test_model_and_memory_are_read_from_the_system_files() -> None:
    assert cpu_model("processor\t: 0\nmodel name\t: AMD  EPYC 7R13\nflags: x\n") == "AMD EPYC 7R13"
    assert cpu_model("processor\t: 0\nCPU part\t: 0xd40\n") is None
    assert memory_gib("MemTotal:       32768000 kB\nMemFree: 1 kB\n") == 31.2
    assert memory_gib("") is None


def test_gpus_are_described_with_driver_and_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [SimpleNamespace(uuid=f"u{index}", name="H200") for index in range(2)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", devices.__getitem__)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 28, 9))
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: b"580.65.06")
    hardware = describe_machine(uses_gpu=True)
    assert hardware.gpus == {"u0": "H200", "u1": "H200"}
    assert (hardware.driver, hardware.nccl) == ("580.65.06", "2.28.9")
    assert hardware.cuda == torch.version.cuda


def test_energy_is_that_of_the_gpus_that_report_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def energy(handle: str) -> int:
        if handle == "GPU-part":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 5_000

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", energy)
    assert read_energy_j(["whole", "GPU-other", "part"]) == {"whole": 5.0, "GPU-other": 5.0}


def test_machine_without_nvidias_library_reports_no_energy() -> None:
    assert read_energy_j(["u0"]) == {}


@pytest.mark.parametrize("name", NVML)
def test_rays_copy_of_nvidias_library_has_what_is_used(name: str) -> None:
    function: Any = getattr(pynvml, name)
    assert len(inspect.signature(function).parameters) == int("Device" in name)
