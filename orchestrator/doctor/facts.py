"""Facts about one machine, as values that pickle: nodes send them to the driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Room:
    """A file system."""

    what: str
    """What is written there, such as `temporary files`."""
    path: str
    free_bytes: int
    total_bytes: int
    """0 if the file system does not report a size."""


@dataclass(frozen=True)
class MachineFacts:
    """The machine of one process, and the limits of the process."""

    rooms: tuple[Room, ...]
    shared_memory: Room | None
    """None if the system has none."""
    open_files: int | None
    """How many files the process may have open. None without a limit."""
    free_memory_bytes: int | None


@dataclass(frozen=True)
class Transfer:
    """Bytes that were moved, and how long it took."""

    num_bytes: int
    took_s: float

    @property
    def mib_per_s(self) -> float:
        return self.num_bytes / 2**20 / max(self.took_s, 1e-9)


@dataclass(frozen=True)
class CredentialFacts:
    """The credentials for S3 of a process."""

    source: str
    """Where AWS's standard chain found them, such as `env` or `sso`."""
    is_temporary: bool
    is_renewed: bool
    """Whether new ones are fetched before they expire."""
    ends_at_s: float | None
    """When they expire, in seconds since the epoch. None if that is unknown."""


@dataclass(frozen=True)
class StoreFacts:
    """A store as one machine sees it."""

    uri: str
    error: str | None = None
    """Why a run could not publish its results. The other facts are then missing."""
    warnings: tuple[str, ...] = ()
    is_for_one_run: bool = False
    is_drivers: bool = True
    """Whether the store contains what the driver wrote to it."""
    clock_skew_s: float | None = None
    """How far the clock of the machine is ahead of the clock of the store."""
    keeps_checksums: bool | None = None
    """Whether the store reports a checksum of a file that was uploaded. None if that was not
    tested."""
    upload: Transfer | None = None
    download: Transfer | None = None
    credentials: CredentialFacts | None = None
    """None for a folder, and if there are no credentials."""


@dataclass(frozen=True)
class DataFacts:
    """The data of some stages as one machine sees them."""

    location: str
    stages: tuple[str, ...]
    digest: str | None
    """The fingerprint. None if it was not read."""
    error: str | None = None
    read: Transfer | None = None
    """A sample of the data. None if it is too small to tell the speed, or if it was not read."""


@dataclass(frozen=True)
class OpsFacts:
    """The implementation of each op of mmcv that our methods call, by its name."""

    sources: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class GpuFacts:
    """The GPUs of a machine."""

    listed: int
    """How many Ray, or without a cluster the driver's files in /dev, list."""
    tested: int
    """How many were free, so that a kernel was run on them."""
    names: tuple[str, ...] = ()
    """The names of those that work."""
    errors: tuple[str, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    nccl: str | None = None


@dataclass(frozen=True)
class AllReduceFacts:
    """An all-reduce that was measured."""

    backend: str
    """`nccl` or `gloo`."""
    num_ranks: int
    reduce: Transfer | None = None
    """The bytes that each rank's link moves in one all-reduce, and the time that it took."""
    error: str | None = None


@dataclass(frozen=True)
class Findings:
    """What was found on one machine."""

    packages: Mapping[str, str | None]
    """The version of each package, and of `python`. None if it is not installed."""
    machine: MachineFacts
    store: StoreFacts | None = None
    data: tuple[DataFacts, ...] = ()
    ops: OpsFacts | None = None
