"""A Ray cluster whose autoscaler starts and stops simulated machines: real raylets on this
machine, from Ray's provider for its own tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.conftest import ROOT, free_port
from tests.ray_nodes import kill_all

START_TRIES = 3
_HEAD_TYPE = "ray.head.default"
"""The name that Ray's provider expects."""
_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
_LISTS = (
    "cluster_synced_files",
    "head_setup_commands",
    "head_start_ray_commands",
    "initialization_commands",
    "rsync_exclude",
    "rsync_filter",
    "setup_commands",
    "worker_setup_commands",
    "worker_start_ray_commands",
)
"""What Ray's schema of configurations demands for machines that are reached by SSH."""


@dataclass(frozen=True)
class MachineType:
    """Machines that the autoscaler may start."""

    name: str
    most: int
    cpus: int
    gpus: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def entry(self) -> dict[str, object]:
        """This type in the autoscaler's configuration."""
        return {
            "resources": {"CPU": self.cpus, "GPU": self.gpus, "object_store_memory": 10**8},
            "labels": dict(self.labels),
            "node_config": {},
            "min_workers": 0,
            "max_workers": self.most,
        }


CPU_MACHINES = MachineType("cpu", most=2, cpus=2)
GPU_MACHINES = MachineType(
    "gpu", most=1, cpus=2, gpus=1, labels={"ray.io/accelerator-type": "H100", "pool": "fast"}
)


@contextmanager
def autoscaling_cluster(
    types: Sequence[MachineType] = (CPU_MACHINES, GPU_MACHINES), *, idle_timeout_s: float = 5
) -> Iterator[str]:
    """Yield the address of a cluster that has only a head without CPUs, and an autoscaler.

    All its processes are in one session, so that each of them is ended, also the simulated machines
    that the autoscaler has started.
    """
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        for _ in range(START_TRIES - 1):
            address, head = _start(Path(folder), types, idle_timeout_s)
            if head.returncode == 0:
                break
            kill_all(partial(_processes_of, head.pid))
        else:
            address, head = _start(Path(folder), types, idle_timeout_s)
        try:
            assert head.returncode == 0, (Path(folder) / "start.log").read_text()
            yield address
        finally:
            kill_all(partial(_processes_of, head.pid))


def _start(
    folder: Path, types: Sequence[MachineType], idle_timeout_s: float
) -> tuple[str, subprocess.Popen[bytes]]:
    """Run `ray start`, which returns once the head's processes run; return the address."""
    import ray.util  # noqa: PLC0415  only the tests that use it pay for the import

    address = f"{ray.util.get_node_ip_address()}:{free_port()}"
    config = folder / "autoscaling.json"
    config.write_text(json.dumps(_config(address, types, idle_timeout_s)))
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head"),
        *(f"--port={address.rpartition(':')[2]}", f"--temp-dir={folder}/ray"),
        *(f"--autoscaling-config={config}", "--num-cpus=0", "--num-gpus=0"),
        *("--object-store-memory=100000000", "--include-dashboard=false"),
        *(
            f"--ray-client-server-port={free_port()}",
            f"--dashboard-agent-listen-port={free_port()}",
        ),
    ]
    with (folder / "start.log").open("wb") as log:
        head = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment(folder),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        head.wait(timeout=600)
    return address, head


def _config(address: str, types: Sequence[MachineType], idle_timeout_s: float) -> dict[str, object]:
    return {
        "cluster_name": "simulated",
        "max_workers": sum(one.most for one in types),
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": idle_timeout_s / 60,
        "provider": {
            # Not "fake_multinode": Ray's wheels lack the defaults of that type.
            "type": "external",
            "module": _PROVIDER,
            "gcs_address": address,
            "head_node_id": _head_id(),
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": _HEAD_TYPE,
        "available_node_types": {
            _HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            **{one.name: one.entry for one in types},
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in _LISTS},
    }


def _environment(folder: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        "RAY_AUTH_MODE": "disabled",
        "RAY_TMPDIR": str(folder),
        "RAY_FAKE_CLUSTER": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _head_id(),
        # As `ray up` and KubeRay set them:
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": _head_id(),
        "RAY_NODE_TYPE_NAME": _HEAD_TYPE,
        # Ray's default is 5 seconds.
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }


def _head_id() -> str:
    """The id that Ray's provider gives to the head."""
    return "f" * 51 + "00000"


def _processes_of(session: int) -> list[int]:
    """The processes of the session that still run. One that has ended stays as a zombie until its
    parent, or the init process of the container, takes notice."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, *_, owner = (entry / "stat").read_text().rpartition(")")[2].split(maxsplit=4)[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(owner) == session and state not in "ZX":
            found.append(int(entry.name))
    return found
