"""Every error that a user can meet, and the exit code of each.

    OrchestratorError                1  a stage failed
    ├── JobError                     2  the job or its data is wrong
    │   ├── SpecError                   faults of a job file, all at once
    │   ├── DataError                   a data set that is missing, broken or other than the job
    says
    │   └── CheckpointError             weights that do not fit the model
    ├── UnreachableError             3  the store or the cluster is out of reach
    │   ├── StoreError                  a store that cannot be read or written
    │   │   ├── StoreRefusedError       the same, where another try meets the same refusal
    │   │   └── IntegrityError          bytes that differ from their sha256
    │   ├── ClusterError                no connection, or resources that the cluster will never have
    │   └── MachineError                a machine that lacks what a stage needs before it begins
    ├── StageError                   1  a stage failed for another reason
    ├── StoppedError               130  a stage stopped because it was asked to
    └── InterruptedRunError        130  Ctrl-C or SIGTERM

An error's text says what is wrong, where, and what to do. All of them survive pickling, since they
cross process borders inside Ray.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


class OrchestratorError(Exception):
    """The root: anything that ends a run with a message instead of a traceback."""

    exit_code: ClassVar[int] = 1


class JobError(OrchestratorError):
    """The job or its data is wrong; running it again unchanged cannot help."""

    exit_code = 2


@dataclass(frozen=True, order=True)
class Fault:
    """One thing wrong with a job, and where: `FILE:LINE:COL: dotted.path: message`.

    `line` and `column` count from 1; both are None for a fault of a `--set` override or of a file
    as a whole.
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
    """Every fault of a job file, in the order of the file, one a line."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[Fault, ...]]]:
        return type(self), (self.faults,)


class DataError(JobError):
    """A data set is missing, broken, or other than the job says."""


class CheckpointError(JobError):
    """Weights do not fit the model: the names and shapes are in the text."""


class UnreachableError(OrchestratorError):
    """The store or the cluster is out of reach; the same job may work later or elsewhere."""

    exit_code = 3


class StoreError(UnreachableError):
    """The store cannot be read or written."""


class StoreRefusedError(StoreError):
    """The store refuses what is asked of it, as with credentials that have expired: another try is
    in vain."""


class IntegrityError(StoreError):
    """Bytes in the store differ from the sha256 under which they were published."""


class ClusterError(UnreachableError):
    """The cluster cannot be reached, or can never satisfy what a stage asks for."""


class MachineError(UnreachableError):
    """A machine lacks what a stage needs before it begins; another attempt would fail in the same
    way."""


class StageError(OrchestratorError):
    """A stage failed for a reason that is neither its job's nor its data's fault."""


class StoppedError(OrchestratorError):
    """A stage wrote a checkpoint and stopped, because `should_stop` said so; another attempt goes
    on from there."""

    exit_code = 130


class InterruptedRunError(OrchestratorError):
    """The run was interrupted by Ctrl-C or SIGTERM; what was finished is kept."""

    exit_code = 130


_SURROGATE = re.compile("[\ud800-\udfff]")
_UNDECODED = range(0xDC80, 0xDD00)
"""Surrogates by which Python writes the bytes of a file's name that are not UTF-8."""


def escaped(name: str) -> str:
    r"""The name with `\xe9` for each byte of it that is not UTF-8."""
    return _SURROGATE.sub(lambda found: _escape(ord(found[0])), name)


def _escape(code: int) -> str:
    return f"\\x{code - 0xDC00:02x}" if code in _UNDECODED else f"\\u{code:04x}"
