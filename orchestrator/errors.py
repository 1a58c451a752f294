"""Every error that a user can get, and its exit code.

    OrchestratorError                1  a stage failed
    ├── JobError                     2  the job or its data is wrong
    │   ├── SpecError                   faults of a job file, all at once
    │   ├── DataError                   a data set is missing, broken or does not match the job
    │   └── CheckpointError             weights do not fit the model
    ├── UnreachableError             3  the store or the cluster is unreachable
    │   ├── StoreError                  the store cannot be read or written
    │   │   ├── StoreRefusedError       the store refuses, and another try would not help
    │   │   └── IntegrityError          bytes differ from their sha256
    │   ├── StageHeldError              another run works on the stage, and this one does not wait
    │   ├── ClusterError                no connection, or resources that the cluster will never have
    │   └── MachineError                a machine lacks what a stage needs before it begins
    ├── StageError                   1  a stage failed for another reason
    │   └── DivergedError               the loss or the gradients became NaN or infinite
    ├── LeaseLostError               1  another run has taken over the stage
    ├── StoppedError               130  a stage stopped because it was asked to
    └── InterruptedRunError        130  Ctrl-C or SIGTERM

An error's text says what is wrong, where, and what to do. All errors can be pickled, because they
are sent between processes in Ray.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple


class FailedWorker(NamedTuple):
    """The worker with whose error a stage failed."""

    attempt: int
    rank: int
    is_lost: bool = False
    """Whether the attempt was lost, so the rest of the worker's log may still be on its way."""


class OrchestratorError(Exception):
    """The base class of errors that end a run with a message instead of a traceback."""

    exit_code: ClassVar[int] = 1
    failed_worker: FailedWorker | None = None
    """Set by the driver if a worker's error or loss ended a stage."""


class JobError(OrchestratorError):
    """The job or its data is wrong. Running it again unchanged cannot help."""

    exit_code = 2


@dataclass(frozen=True, order=True)
class Fault:
    """One fault of a job, with its position: `FILE:LINE:COL: dotted.path: message`.

    `line` and `column` count from 1. Both are None for a fault of a `--set` override or of a whole
    file.
    """

    source: str
    line: int | None
    column: int | None
    path: str
    message: str

    def __str__(self) -> str:
        position = "" if self.line is None else f":{self.line}:{self.column}"
        where = (
            f"{self.source} {self.path}"
            if self.source == "--set"
            else f"{self.source}{position}: {self.path}"
        )
        return f"{where.removesuffix(': ')}: {self.message}"


class SpecError(JobError):
    """All faults of a job file, one per line, in the order of the file."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[Fault, ...]]]:
        return type(self), (self.faults,)


class DataError(JobError):
    """A data set is missing, broken, or does not match the job."""


class CheckpointError(JobError):
    """Weights do not fit the model. The text has the names and shapes."""


class UnreachableError(OrchestratorError):
    """The store or the cluster is unreachable. The same job may work later or elsewhere."""

    exit_code = 3


class StoreError(UnreachableError):
    """The store cannot be read or written."""


class StoreRefusedError(StoreError):
    """The store refuses a request, for example because credentials have expired. Another try would
    not help."""


class IntegrityError(StoreError):
    """Bytes in the store differ from the sha256 with which they were published."""


class ClusterError(UnreachableError):
    """The cluster is unreachable, or will never have the resources that a stage requests."""


class MachineError(UnreachableError):
    """A machine lacks what a stage needs before it begins. Another attempt would fail in the same
    way."""


class StageHeldError(UnreachableError):
    """Another run works on the stage or uses the store, and this one cannot or should not wait."""


class LeaseLostError(OrchestratorError):
    """Another run has taken over the stage, because this run did not renew its lease in time."""


class StageError(OrchestratorError):
    """A stage failed, but not because of its job or its data."""


class DivergedError(StageError):
    """Training diverged: the loss, the gradients or the weights became NaN or infinite."""


class StoppedError(OrchestratorError):
    """A stage wrote a checkpoint and stopped because `should_stop` returned True. Another attempt
    resumes from it."""

    exit_code = 130


class InterruptedRunError(OrchestratorError):
    """The run was interrupted by Ctrl-C or SIGTERM. Finished stages are kept."""

    exit_code = 130


_SURROGATE = re.compile("[\ud800-\udfff]")
_UNDECODED = range(0xDC80, 0xDD00)
"""Surrogates with which Python represents bytes of a file name that are not UTF-8."""


def escaped(name: str) -> str:
    r"""Return the name with an escape such as `\xe9` for each byte that is not UTF-8."""
    return _SURROGATE.sub(lambda found: _escape(ord(found[0])), name)


def _escape(code: int) -> str:
    return f"\\x{code - 0xDC00:02x}" if code in _UNDECODED else f"\\u{code:04x}"
