"""What is worth another attempt, and what is not."""

from __future__ import annotations

import pytest

from orchestrator.cluster.train import MAX_ATTEMPTS, Fail, Retry, judge
from orchestrator.errors import CheckpointError, DataError, IntegrityError, OrchestratorError, StageError, StoreError


@pytest.mark.parametrize("lost", [{}, {1: RuntimeError("worker died.\nmore")}, {0: StoreError("S3 is out of reach")}])
def test_what_may_pass_is_tried_again_until_the_last_attempt(lost: dict[int, Exception]) -> None:
    assert isinstance(judge(lost, attempt=1), Retry)
    assert isinstance(judge(lost, attempt=MAX_ATTEMPTS - 1), Retry)
    assert isinstance(judge(lost, attempt=MAX_ATTEMPTS), Fail)


def test_the_reason_of_a_retry_is_one_line_with_the_rank() -> None:
    assert judge({1: RuntimeError("worker died.\nmore")}, attempt=1) == Retry("lost worker 1: worker died")


@pytest.mark.parametrize("kind", [DataError, CheckpointError, IntegrityError, StageError])
def test_what_stays_wrong_fails_at_once_whatever_else_was_lost(kind: type[OrchestratorError]) -> None:
    error = kind("wrong")
    failures = {0: StoreError("S3 is out of reach"), 1: error, 2: RuntimeError("peer lost")}
    assert judge(failures, attempt=1) == Fail(error)


def test_a_store_that_stays_out_of_reach_fails_with_its_own_error() -> None:
    error = StoreError("S3 is out of reach")
    assert judge({0: error}, attempt=MAX_ATTEMPTS) == Fail(error)
