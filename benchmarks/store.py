"""`python -m benchmarks.store`: what it costs to publish to S3 and to fetch from it.

A large file and many small ones go up and down, in turns with plain boto3 and, where it is
installed, `aws s3 cp`. Each transfer runs in a process of its own. The server is the one that
AWS_ENDPOINT_URL names; without it, moto is started on this machine, which keeps all bytes in
memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple
from uuid import uuid4

import boto3

from benchmarks.command import at_least, run_module
from benchmarks.store_sides import Cost

MIB = 2**20
SMALL_BYTES = 100 * 1024
CPU_BAR = 1.15
"""At most this multiple of plain boto3 and one sha256 pass."""
SPEED_BAR = 0.9
"""At least this share of the speed of the faster rival."""
MEMORY_BAR = 500e6
AGAIN_BAR = 0.02
"""At most this share of the first publish."""
_START_TIMEOUT_S = 120


class Case(NamedTuple):
    """What goes up and down."""

    name: str
    num_files: int
    file_bytes: int

    @property
    def gib(self) -> float:
        return self.num_files * self.file_bytes / 2**30


class Transfer(NamedTuple):
    """The costs of all rounds by side."""

    case: Case
    direction: str
    costs: Mapping[str, Sequence[Cost]]

    def cpu_s(self, side: str) -> float:
        return median(cost.cpu_s for cost in self.costs[side])

    def wall_s(self, side: str) -> float:
        return median(cost.wall_s for cost in self.costs[side])


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 if all bars are met, else 1."""
    parser = argparse.ArgumentParser(prog="benchmarks.store", description=__doc__)
    parser.add_argument("--rounds", type=at_least(1), default=3)
    parser.add_argument("--large-mib", type=at_least(1), default=2048, help="default 2048")
    parser.add_argument("--small-files", type=at_least(1), default=2000, help="default 2000")
    parser.add_argument("--json", type=Path, help="write the costs of all rounds here")
    options = parser.parse_args(arguments)
    cases = (
        Case("one large file", 1, options.large_mib * MIB),
        Case(f"{options.small_files} small files", options.small_files, SMALL_BYTES),
    )
    rivals = ("boto3", *(["aws"] if shutil.which("aws") else []))
    transfers: list[Transfer] = []
    with tempfile.TemporaryDirectory(prefix="store-") as scratch, _server():
        for number, case in enumerate(cases):
            folder = Path(scratch, str(number), "files")
            _write_files(folder, case)
            transfers += _transfers(case, folder, rivals, options.rounds)
    if options.json is not None:
        kept = [{**one._asdict(), "case": one.case._asdict()} for one in transfers]
        options.json.write_text(json.dumps(kept, indent=1))
    met = [_is_met(transfer) for transfer in transfers]
    return 0 if all(met) else 1


def _transfers(
    case: Case, folder: Path, rivals: Sequence[str], num_rounds: int
) -> Iterator[Transfer]:
    """Run all rounds, every second one in the opposite order."""
    up: dict[str, list[Cost]] = {side: [] for side in ("sha256", "ours", *rivals)}
    down: dict[str, list[Cost]] = {side: [] for side in ("ours", *rivals)}
    for number in range(num_rounds):
        for side in list(up)[:: 1 if number % 2 else -1]:
            bucket = f"bench-{uuid4().hex}"
            boto3.client("s3").create_bucket(Bucket=bucket)
            uri = f"s3://{bucket}/{side}"
            up[side].append(_run(side, "up", uri, folder))
            if side in down:
                down[side].append(_run(side, "down", uri, folder))
                _check(case, folder)
            _remove(bucket)
    yield Transfer(case, "up", up)
    yield Transfer(case, "down", {**down, "sha256": up["sha256"]})


def _run(side: str, direction: str, uri: str, folder: Path) -> Cost:
    done = run_module("benchmarks.store_sides", side, direction, uri, str(folder))
    return Cost(**json.loads(done.stdout))


def _is_met(transfer: Transfer) -> bool:
    """Print the costs of a transfer next to its bars; return whether all are met."""
    case, rivals = transfer.case, [name for name in transfer.costs if name in ("boto3", "aws")]
    print(f"{case.name}, {case.gib:.2f} GiB, {transfer.direction}:")
    for side in ("ours", *rivals, "sha256"):
        peak = max(cost.peak_bytes for cost in transfer.costs[side]) / 1e6
        print(
            f"  {side}: {transfer.wall_s(side):.2f} s, {transfer.cpu_s(side):.2f} CPU-s "
            f"({transfer.cpu_s(side) / case.gib:.2f} a GiB), peak {peak:.0f} MB"
        )
    ours = transfer.costs["ours"]
    cpu = transfer.cpu_s("ours") / (transfer.cpu_s("boto3") + transfer.cpu_s("sha256"))
    speed = min(transfer.wall_s(rival) for rival in rivals) / transfer.wall_s("ours")
    peak_bytes = max(cost.peak_bytes for cost in ours)
    bars = [
        ("CPU / (boto3 + sha256)", f"{cpu:.2f}", f"<= {CPU_BAR}", cpu <= CPU_BAR),
        ("speed / faster rival", f"{speed:.2f}", f">= {SPEED_BAR}", speed >= SPEED_BAR),
        ("memory", f"{peak_bytes / 1e6:.0f} MB", "< 500 MB", peak_bytes < MEMORY_BAR),
    ]
    if transfer.direction == "up":
        again = median((cost.again_s or 0) / cost.wall_s for cost in ours)
        bars.append(
            ("second publish / first", f"{again:.4f}", f"<= {AGAIN_BAR}", again <= AGAIN_BAR)
        )
    for name, value, bar, is_met in bars:
        print(f"  {name}: {value}; bar {bar}: {'met' if is_met else 'MISSED'}", flush=True)
    return all(is_met for *_, is_met in bars)


def _write_files(folder: Path, case: Case) -> None:
    """Random bytes, which no layer can compress."""
    folder.mkdir(parents=True)
    for number in range(case.num_files):
        with (folder / f"{number:05d}").open("wb") as file:
            for start in range(0, case.file_bytes, MIB):
                file.write(os.urandom(min(MIB, case.file_bytes - start)))


def _check(case: Case, folder: Path) -> None:
    """Exit unless the newest download has all bytes, then delete it."""
    fetched = folder / "fetched"
    sizes = [path.stat().st_size for path in fetched.iterdir()]
    if sizes != [case.file_bytes] * case.num_files:
        sys.exit(f"{fetched}: {len(sizes)} files, {sum(sizes)} bytes")
    shutil.rmtree(fetched)


def _remove(bucket: str) -> None:
    objects = boto3.resource("s3").Bucket(bucket).objects.all()
    for one in objects:
        one.delete()
    boto3.client("s3").delete_bucket(Bucket=bucket)


@contextmanager
def _server() -> Iterator[None]:
    """The server of AWS_ENDPOINT_URL, or moto with made-up credentials."""
    if "AWS_ENDPOINT_URL" in os.environ:
        yield
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    null = subprocess.DEVNULL
    server = subprocess.Popen(command, stdout=null, stderr=null)  # noqa: S603  of our own making
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    try:
        _await(port)
        yield
    finally:
        server.terminate()
        server.wait()


def _await(port: int) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline_s:
                sys.exit("moto does not start")
            time.sleep(0.2)
        else:
            return


if __name__ == "__main__":
    sys.exit(main())
