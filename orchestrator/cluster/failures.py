"""What the loss of an attempt means: another try, a move to another machine, or the end of the
stage. Pure values."""

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
"""Tries at a stage whose workers are lost. A machine that leaves with notice costs none of them."""
MAX_MOVES = 100
"""Attempts that may end because a machine leaves, in one run: spot machines do, over and over."""

ROOM_IS_TAKEN = "the room for the workers was taken by others"

_STUCK = (
    "Timed out waiting",  # gloo
    "Application timeout caused pair closure",  # gloo, where the other side had given up
    "collective operation timeout",  # NCCL's watchdog
    "collective operation timed out",  # Ray's barriers
)


@dataclass(frozen=True)
class Retry:
    """Start the group again from the last checkpoint."""

    why: str
    is_move: bool = False
    """Nothing was wrong with the attempt, so it is none of MAX_ATTEMPTS."""


@dataclass(frozen=True)
class Fail:
    """Give the stage up."""

    error: OrchestratorError


@dataclass(frozen=True)
class LostAttempt:
    """How an attempt ended before its stage did."""

    failures: Mapping[int, BaseException]
    """By rank; a machine that leaves may take the workers' words with it."""
    is_move: bool = False
    """Ray says that a machine left, or that the room was gone when the group wanted it."""
    cause: str = "no reason given"
    """What to report if no worker reported an error."""


class LostAttemptError(Exception):
    """An attempt that ended before its stage did."""

    def __init__(self, loss: LostAttempt) -> None:
        super().__init__(loss)
        self.loss = loss


def decide_retry(
    loss: LostAttempt,
    *,
    num_lost: int,
    num_moves: int = 0,
    is_interrupted: bool = False,
    timeout_min: float = 10,
) -> Retry | Fail:
    """What to do about the loss of an attempt, before which `num_lost` were lost and `num_moves`
    had to move.

    A lost worker is worth another try, and so is a store that was out of reach for a while. Who
    stops because its machine leaves only moves on. An interrupted run tries nothing again.
    """
    lasting = lasting_error(loss.failures)
    if lasting is not None:
        return Fail(lasting)
    errors = [
        failure for failure in loss.failures.values() if isinstance(failure, OrchestratorError)
    ]
    stopped = next((error for error in errors if isinstance(error, StoppedError)), None)
    why = _why(loss, timeout_min)
    if is_interrupted:
        return Fail(
            stopped or StoppedError(f"{why}; not tried again, since the run was interrupted")
        )
    if stopped or loss.is_move:
        moved = Retry("a machine is leaving" if stopped else loss.cause, is_move=True)
        return (
            moved
            if num_moves < MAX_MOVES
            else Fail(StageError(f"{moved.why}, for the {num_moves + 1}th time"))
        )
    if num_lost + 1 < MAX_ATTEMPTS:
        return Retry(why)
    return Fail(
        errors[0]
        if errors
        else StageError(
            f"lost workers in each of {MAX_ATTEMPTS} attempts, the last time: "
            f"{why.removeprefix('lost ')}"
        )
    )


def lasting_error(failures: Mapping[int, BaseException]) -> OrchestratorError | None:
    """The first of the workers' `failures`, by rank, that another attempt would meet again."""
    errors = (failure for failure in failures.values() if isinstance(failure, OrchestratorError))
    return next((error for error in errors if not _may_pass(error)), None)


def _why(loss: LostAttempt, timeout_min: float) -> str:
    if any(is_stuck(failure) for failure in loss.failures.values()):
        return f"workers waited more than {timeout_min:g} minutes for each other"
    # A worker that lost a peer reports a broken connection, which is the effect and not the cause.
    gone = {
        rank: failure for rank, failure in loss.failures.items() if not is_loss_of_peer(failure)
    }
    lost = ", ".join(str(rank) for rank in sorted(gone)) or "unknown"
    cause = next((first_line(failure) for failure in (gone or loss.failures).values()), loss.cause)
    return f"lost worker {lost}: {cause}"


def first_line(failure: BaseException) -> str:
    """The first line of its message without the full stop, else the name of its kind."""
    return (str(failure).strip() or type(failure).__name__).splitlines()[0].rstrip(".")


def _may_pass(error: OrchestratorError) -> bool:
    """Whether the same attempt may succeed later: damaged bytes stay damaged, expired credentials
    expired."""
    lasts = isinstance(error, IntegrityError | StoreRefusedError | MachineError)
    return isinstance(error, UnreachableError | StoppedError) and not lasts


def is_loss_of_peer(err: BaseException) -> bool:
    """Whether a collective failed because another worker is gone: gloo says so only in a
    RuntimeError's text."""
    # By name: the driver judges losses too, and torch takes seconds to import.
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(err).__mro__}
    return "torch.distributed.DistError" in names or "gloo/transport" in str(err)


def is_loss_of_loader(err: BaseException) -> bool:
    """Whether a process that loads data for this worker is gone, as one that was killed for
    memory."""
    return isinstance(err, RuntimeError) and str(err).startswith("DataLoader worker (pid")


def is_stuck(err: BaseException) -> bool:
    """Whether a collective gave up waiting for another worker; gloo, NCCL and Ray each say so in
    their own words."""
    return any(words in str(err) for words in _STUCK)
