"""Which losses lead to another attempt, and which fail the stage."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader, Dataset

from orchestrator.cluster.failures import (
    MAX_ATTEMPTS,
    MAX_MOVES,
    Fail,
    LostAttempt,
    Retry,
    as_raised,
    decide_retry,
    failed_rank,
)
from orchestrator.errors import (
    CheckpointError,
    DataError,
    IntegrityError,
    MachineError,
    OrchestratorError,
    StageError,
    StoppedError,
    StoreError,
    StoreRefusedError,
)

LAST = MAX_ATTEMPTS - 1
STOPPED = StoppedError("stopped after step 7")


@pytest.mark.parametrize(
    "lost", [{}, {1: RuntimeError("worker ended.\nmore")}, {0: StoreError("S3 is out of reach")}]
)
def test_temporary_loss_is_retried_until_the_last_attempt(lost: dict[int, Exception]) -> None:
    assert isinstance(decide_retry(LostAttempt(lost), num_lost=0), Retry)
    assert isinstance(decide_retry(LostAttempt(lost), num_lost=LAST - 1), Retry)
    assert isinstance(decide_retry(LostAttempt(lost), num_lost=LAST), Fail)


def test_reason_of_a_retry_is_one_line_with_the_rank() -> None:
    assert decide_retry(LostAttempt({1: RuntimeError("worker ended.\nmore")}), num_lost=0) == Retry(
        "lost worker 1: worker ended"
    )
    assert decide_retry(LostAttempt({}, cause="no actor"), num_lost=0) == Retry(
        "lost worker unknown: no actor"
    )


def test_reason_names_the_lost_worker_and_not_its_peers() -> None:
    noticed = RuntimeError("[gloo/transport/tcp/pair.cc:538] Read error: Connection reset by peer")
    failures = {0: noticed, 1: RuntimeError("worker ended."), 2: noticed}
    assert decide_retry(LostAttempt(failures), num_lost=0) == Retry("lost worker 1: worker ended")
    assert decide_retry(LostAttempt({0: noticed, 2: noticed}), num_lost=0) == Retry(
        f"lost worker unknown: {noticed}"
    )


@pytest.mark.parametrize(
    ("failures", "rank"),
    [
        ({}, 0),
        ({0: RuntimeError("gloo/transport"), 1: RuntimeError("worker ended.")}, 1),
        ({0: RuntimeError("worker ended."), 2: DataError("wrong")}, 2),
        ({1: RuntimeError("gloo/transport"), 3: RuntimeError("gloo/transport")}, 1),
    ],
)
def test_failed_rank_is_the_cause_and_not_a_peer(failures: dict[int, Exception], rank: int) -> None:
    assert failed_rank(LostAttempt(failures)) == rank


@pytest.mark.parametrize(
    "kind",
    [DataError, CheckpointError, IntegrityError, StoreRefusedError, MachineError, StageError],
)
def test_lasting_error_fails_the_stage_at_once(
    kind: type[OrchestratorError],
) -> None:
    error = kind("wrong")
    failures = {
        0: StoreError("S3 is out of reach"),
        1: error,
        2: RuntimeError("peer lost"),
        3: STOPPED,
    }
    assert decide_retry(LostAttempt(failures), num_lost=0) == Fail(error)


def test_store_that_stays_unreachable_fails_the_stage() -> None:
    error = StoreError("S3 is out of reach")
    assert decide_retry(LostAttempt({0: error}), num_lost=LAST) == Fail(error, is_lost=True)


@pytest.mark.parametrize(
    "loss", [LostAttempt({1: STOPPED}), LostAttempt({}, is_move=True, cause="a machine is leaving")]
)
def test_leaving_machine_costs_no_attempt_up_to_a_limit(loss: LostAttempt) -> None:
    assert decide_retry(loss, num_lost=LAST, num_moves=MAX_MOVES - 1) == Retry(
        "a machine is leaving", is_move=True
    )
    assert isinstance(decide_retry(loss, num_lost=0, num_moves=MAX_MOVES), Fail)


def test_interrupted_run_does_not_retry() -> None:
    assert decide_retry(LostAttempt({0: STOPPED}), num_lost=0, is_stopping=True) == Fail(STOPPED)
    decision = decide_retry(
        LostAttempt({1: RuntimeError("worker ended.")}), num_lost=0, is_stopping=True
    )
    assert isinstance(decision, Fail)
    assert isinstance(decision.error, StoppedError)
    assert (
        str(decision.error)
        == "lost worker 1: worker ended; not tried again because the stage was asked to stop"
    )


@pytest.mark.parametrize(
    "words",
    [
        "[unbound_buffer.cc:81] Timed out waiting 600000ms for recv operation to complete",
        "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)",
        "The collective operation timed out after 600.00 seconds.",
    ],
)
def test_timeout_of_a_collective_is_retried(words: str) -> None:
    failures = {0: RuntimeError("Connection closed by peer"), 1: RuntimeError(words)}
    why = "workers waited more than 2.5 minutes for each other"
    assert decide_retry(LostAttempt(failures), num_lost=0, timeout_min=2.5) == Retry(why)


class _Broken(Dataset[int]):
    """A data set whose images a process finds broken."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise DataError("a.png: is broken\nb.png: is broken")


def test_an_error_of_a_loader_process_is_shown_without_its_traceback() -> None:
    with pytest.raises(DataError) as caught:
        next(iter(DataLoader(_Broken(), num_workers=1)))
    assert str(caught.value).startswith("Caught DataError in DataLoader worker process 0")
    assert str(as_raised(caught.value)) == "a.png: is broken\nb.png: is broken"
    assert as_raised(STOPPED) is STOPPED
