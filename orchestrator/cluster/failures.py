"""Decide what follows the loss of an attempt: another try, a move, or the failure of the stage.

Pure: no Ray and no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.errors import (
    IntegrityError,
    MachineError,
    OrchestratorError,
    StageError,
    StoppedError,
    StoreRefusedError,
    UnreachableError,
)

MAX_ATTEMPTS = 3
"""Attempts at a stage whose workers are lost. A machine that leaves with notice costs none."""
MAX_MOVES = 100
"""Attempts of one run that may end because a machine leaves. Spot machines leave often."""

ROOM_IS_TAKEN = "other users took the resources for the workers"

_STUCK = (
    "Timed out waiting",  # gloo
    "Application timeout caused pair closure",  # gloo, if the other side timed out first
    "collective operation timeout",  # NCCL's watchdog
    "collective operation timed out",  # Ray's barriers
)


@dataclass(frozen=True)
class Retry:
    """Restart the group from the last checkpoint."""

    why: str
    is_move: bool = False
    """Whether the attempt itself did not fail, so that it does not count for MAX_ATTEMPTS."""

    @property
    def is_lost(self) -> bool:
        return not self.is_move


@dataclass(frozen=True)
class Fail:
    """Fail the stage."""

    error: OrchestratorError
    is_lost: bool = False
    """Whether the attempt was lost, as before a Retry."""


@dataclass(frozen=True)
class LostAttempt:
    """How an attempt was lost before its stage ended."""

    failures: Mapping[int, BaseException]
    """The workers' errors by rank. They may be lost with a machine that leaves."""
    is_move: bool = False
    """Whether Ray reports that a machine left, or that the resources were taken before the group
    started."""
    cause: str = "no reason given"
    """The reason to report if no worker reported an error."""


class LostAttemptError(Exception):
    """An attempt was lost before its stage ended."""

    def __init__(self, loss: LostAttempt) -> None:
        super().__init__(loss)
        self.loss = loss


def decide_retry(
    loss: LostAttempt,
    *,
    num_lost: int,
    num_moves: int = 0,
    is_stopping: bool = False,
    timeout_min: float = 10,
) -> Retry | Fail:
    """Decide what to do about the loss of an attempt, after `num_lost` losses and `num_moves`
    moves.

    A lost worker, or a store that was unreachable for a while, leads to another attempt. A worker
    that stopped because its machine leaves only moves. A stage that was asked to stop is not tried
    again.
    """
    lasting = lasting_error(loss.failures)
    if lasting is not None:
        return Fail(lasting)
    errors = [
        failure for failure in loss.failures.values() if isinstance(failure, OrchestratorError)
    ]
    stopped = next((error for error in errors if isinstance(error, StoppedError)), None)
    why = _why(loss, timeout_min)
    if is_stopping:
        return Fail(
            stopped or StoppedError(f"{why}; not tried again because the stage was asked to stop")
        )
    if stopped or loss.is_move:
        moved = Retry("a machine is leaving" if stopped else loss.cause, is_move=True)
        return (
            moved
            if num_moves < MAX_MOVES
            else Fail(
                StageError(
                    f"{moved.why}: {num_moves + 1} attempts ended this way in one run; run the "
                    "same command again to resume"
                )
            )
        )
    if num_lost + 1 < MAX_ATTEMPTS:
        return Retry(why)
    return Fail(
        errors[0]
        if errors
        else StageError(
            f"lost workers in each of {MAX_ATTEMPTS} attempts, the last time: "
            f"{why.removeprefix('lost ')}; run the same command again to resume from the last "
            "checkpoint"
        ),
        is_lost=True,
    )


def lasting_error(failures: Mapping[int, BaseException]) -> OrchestratorError | None:
    """Return the first worker error, by rank, that another attempt would get again, or None."""
    errors = (failure for failure in failures.values() if isinstance(failure, OrchestratorError))
    return next((error for error in errors if not _may_pass(error)), None)


def failed_rank(loss: LostAttempt) -> int:
    """Return the rank whose error or end caused the loss; 0 if no rank is known."""
    lasting = lasting_error(loss.failures)
    # A worker that lost a peer reports a broken connection: that is the effect, not the cause.
    causes = [
        rank
        for rank, failure in sorted(loss.failures.items())
        if failure is lasting or (lasting is None and not is_loss_of_peer(failure))
    ]
    return next(iter(causes or sorted(loss.failures)), 0)


def _why(loss: LostAttempt, timeout_min: float) -> str:
    if any(is_stuck(failure) for failure in loss.failures.values()):
        return f"workers waited more than {timeout_min:g} minutes for each other"
    # A worker that lost a peer reports a broken connection: that is the effect, not the cause.
    gone = {
        rank: failure for rank, failure in loss.failures.items() if not is_loss_of_peer(failure)
    }
    lost = ", ".join(str(rank) for rank in sorted(gone)) or "unknown"
    cause = next((first_line(failure) for failure in (gone or loss.failures).values()), loss.cause)
    return f"lost worker {lost}: {cause}"


def first_line(failure: BaseException) -> str:
    """Return the first line of the message without its full stop, or the name of the class."""
    return (str(failure).strip() or type(failure).__name__).splitlines()[0].rstrip(".")


def _may_pass(error: OrchestratorError) -> bool:
    """Whether the same attempt may succeed later. Damaged bytes stay damaged, and expired
    credentials stay expired."""
    lasts = isinstance(error, IntegrityError | StoreRefusedError | MachineError)
    return isinstance(error, UnreachableError | StoppedError) and not lasts


def is_loss_of_peer(err: BaseException) -> bool:
    """Whether a collective failed because another worker is gone. Gloo reports it only in the text
    of a RuntimeError."""
    # By name: the driver calls this too, and importing torch takes seconds.
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(err).__mro__}
    return "torch.distributed.DistError" in names or "gloo/transport" in str(err)


def is_loss_of_loader(err: BaseException) -> bool:
    """Whether a process that loads data for this worker has ended, for example because memory ran
    out."""
    return isinstance(err, RuntimeError) and str(err).startswith("DataLoader worker (pid")


def as_raised(err: OrchestratorError) -> OrchestratorError:
    """Return the error as a process that loads data raised it. torch raises the same class here,
    with the process's traceback before the message."""
    first, _, rest = str(err).partition("\n")
    if not (first.startswith("Caught ") and "DataLoader worker process" in first):
        return err
    kind = type(err)
    name = f"{kind.__module__}.{kind.__qualname__}: "
    return kind(rest.rpartition(f"\n{name}")[2].strip()) if name in rest else err


def is_stuck(err: BaseException) -> bool:
    """Whether a collective timed out waiting for another worker. Gloo, NCCL and Ray each have their
    own message."""
    return any(words in str(err) for words in _STUCK)
