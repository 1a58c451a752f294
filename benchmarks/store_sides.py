"""`python -m benchmarks.store_sides SIDE DIRECTION URI FOLDER`: one side of `benchmarks.store`.

It prints what the transfer cost as JSON. Imports and the creation of the client are not counted.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager

from orchestrator.artifact import Artifact
from orchestrator.store import open_store
from orchestrator.store.publish import fetch_artifact, publish_artifact, sha256_of


class Cost(NamedTuple):
    """What a transfer cost its client."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    again_s: float | None = None
    """The wall time of a second publish by the same process."""


def publish(uri: str, folder: Path) -> Callable[[], None]:
    store = open_store(uri)
    store.upload("warm-up", Path(__file__))  # uploads have a client of their own

    def transfer() -> None:
        artifact = publish_artifact(store, folder)
        listing_of(folder).write_text(artifact.model_dump_json())

    return transfer


def fetch(uri: str, folder: Path) -> Callable[[], None]:
    store = open_store(uri)
    store.check_access()
    artifact = Artifact.model_validate_json(listing_of(folder).read_text())
    return lambda: void(fetch_artifact(store, artifact, folder / "fetched"))


def listing_of(folder: Path) -> Path:
    """The file that remembers what was published from `folder`, next to it."""
    return folder.with_name(f"{folder.name}.json")


def boto3_up(uri: str, folder: Path) -> Callable[[], None]:
    """One transfer manager for all files, as `aws s3 cp` has: faster than `upload_file` of each."""
    client, bucket, prefix = _plain(uri)

    def transfer() -> None:
        with create_transfer_manager(client, TransferConfig()) as manager:
            futures = [
                manager.upload(str(path), bucket, f"{prefix}/{path.name}")
                for path in sorted(folder.iterdir())
            ]
            for future in futures:
                future.result()

    return transfer


def boto3_down(uri: str, folder: Path) -> Callable[[], None]:
    client, bucket, prefix = _plain(uri)
    target = folder / "fetched"
    target.mkdir()
    names = [path.name for path in sorted(folder.iterdir()) if path.is_file()]

    def transfer() -> None:
        with create_transfer_manager(client, TransferConfig()) as manager:
            futures = [
                manager.download(bucket, f"{prefix}/{name}", str(target / name)) for name in names
            ]
            for future in futures:
                future.result()

    return transfer


def aws_up(uri: str, folder: Path) -> Callable[[], None]:
    return _aws(str(folder), uri)


def aws_down(uri: str, folder: Path) -> Callable[[], None]:
    return _aws(uri, str(folder / "fetched"))


def hash_all(uri: str, folder: Path) -> Callable[[], None]:
    """One pass of sha256 over the files, which both bars add to plain boto3."""
    paths = [path for path in folder.iterdir() if path.is_file()]
    return lambda: void([sha256_of(path) for path in paths])


SIDES: dict[tuple[str, str], Callable[[str, Path], Callable[[], None]]] = {
    ("ours", "up"): publish,
    ("ours", "down"): fetch,
    ("boto3", "up"): boto3_up,
    ("boto3", "down"): boto3_down,
    ("aws", "up"): aws_up,
    ("aws", "down"): aws_down,
    ("sha256", "up"): hash_all,
}


def measure(transfer: Callable[[], None]) -> Cost:
    began_s, cpu_s = time.monotonic(), _cpu_s()
    transfer()
    wall_s, cpu_s = time.monotonic() - began_s, _cpu_s() - cpu_s
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak_kib = max(resource.getrusage(who).ru_maxrss for who in both)
    return Cost(wall_s, cpu_s, peak_kib * 1024)


def _cpu_s() -> float:
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usages = [resource.getrusage(who) for who in both]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def void(_: object) -> None:
    """Drop a value."""


def _plain(uri: str) -> tuple[Any, str, str]:
    client = boto3.client("s3")
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    return client, bucket, prefix


def _aws(source: str, target: str) -> Callable[[], None]:
    command = ["aws", "s3", "cp", "--recursive", "--only-show-errors", source, target]
    return lambda: void(subprocess.run(command, check=True))  # noqa: S603  of our own making


def main(side: str, direction: str, uri: str, folder: str) -> None:
    transfer = SIDES[side, direction](uri, Path(folder))
    cost = measure(transfer)
    if (side, direction) == ("ours", "up"):
        cost = cost._replace(again_s=measure(transfer).wall_s)
    print(json.dumps(cost._asdict()))


if __name__ == "__main__":
    main(*sys.argv[1:])
